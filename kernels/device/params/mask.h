// Which keys a query sees, aligned bottom right: the last query lies at the last key.
#pragma once

#include "params/integers.h"

namespace fa3 {

struct MaskParams {
    fa3_i32 window_left;  // visible keys before and after the diagonal; negative: all
    fa3_i32 window_right;
    fa3_i32 attention_chunk;  // a query sees only the keys of its own chunk of this many positions; 0: no chunks
};

}  // namespace fa3
