// Fixed order of additions to a tile of dq, for results with the same bits every time. The thread blocks that add to a tile
// are those of the neighbouring tiles of keys that its queries see; they take turns, lowest keys first.
//
// A thread block waits for lower tiles of keys of its own head alone, and these have lower block indices, so they are
// resident or done when it waits.
#pragma once

#include "params/mask.h"
#include "parts/mask.cuh"

namespace fa3 {

// Tiles of keys before the first one that a tile of queries from `first_query` on sees.
template <int TileN>
CUTE_DEVICE int key_tiles_before(MaskParams const& mask, int first_query, int seqlen_q, int seqlen_k) {
    return max(0, visible_keys<MaskClass::kLocal>(mask, first_query, seqlen_q, seqlen_k).begin) / TileN;
}

// Called by one thread.
CUTE_DEVICE void await_turn(fa3_u32* turns, int turn) {
    auto const* const passed = static_cast<fa3_u32 volatile const*>(turns);
    while (*passed != static_cast<fa3_u32>(turn)) {
    }
    __threadfence();
}

// Both are called by all threads of a block.
CUTE_DEVICE void wait_turn(fa3_u32* turns, int turn) {
    if (threadIdx.x == 0) await_turn(turns, turn);
    __syncthreads();
}
CUTE_DEVICE void pass_turn(fa3_u32* turns) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(turns, 1u);
}

}  // namespace fa3
