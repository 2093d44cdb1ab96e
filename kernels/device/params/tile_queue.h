// Work queue of a persistent kernel, in device memory.
#pragma once

#include "params/integers.h"

namespace fa3 {

// `next`: index of the next tile. `done`: thread blocks that found the queue empty. The last of them resets both to 0, so
// the host zeroes a queue once, at allocation.
struct TileQueue {
    fa3_u32 next;
    fa3_u32 done;
};

}  // namespace fa3
