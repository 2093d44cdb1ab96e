// Tile queue of a persistent kernel: a counter in device memory. Every function is called by one warp of a thread
// block. The queue's address is a reference to the kernel's parameter, which is loaded where it is used.
#pragma once

#include <cutlass/cutlass.h>

#include "params/tile_queue.h"

namespace fa3 {

// Index of the next tile. The first tile of a thread block is blockIdx.x; the queue gives the others. Request and
// receipt are two calls, so that loads hide the latency of the atomic.
struct NextTile {
    int taken = 0;

    CUTE_DEVICE void request(TileQueue* const& queue) {
        if (cutlass::canonical_lane_idx() == 0) taken = static_cast<int>(atomicAdd(&queue->next, 1u));
    }
    CUTE_DEVICE int index() const { return static_cast<int>(gridDim.x) + __shfl_sync(0xFFFFFFFF, taken, 0); }
};

// Called once per thread block, when no tile is left. The last block resets the queue for the next launch.
CUTE_DEVICE void leave_queue(TileQueue* const& queue) {
    if (cutlass::canonical_lane_idx() == 0 && atomicAdd(&queue->done, 1u) == gridDim.x - 1) {
        queue->next = 0;
        queue->done = 0;
    }
}

}  // namespace fa3
