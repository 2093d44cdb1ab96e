// Fixed order of additions to a tile of dq, for results with the same bits every time. The thread blocks that add to a tile
// are those of the neighbouring tiles of keys that its queries see; they take turns, lowest keys first.
//
// A thread block waits for lower tiles of keys of its own head alone, and these have lower block indices, so they are
// resident or done when it waits.
#pragma once

#include "params/mask.h"
#include "parts/mask.cuh"

namespace fa3 {

// The tile of keys that adds first: the lowest one that a tile of queries from `first_query` on sees.
CUTE_DEVICE int first_turn(MaskParams const& mask, int first_query, int seqlen_q, int seqlen_k, int tile_n) {
    return max(0, visible_keys<MaskClass::kLocal>(mask, first_query, seqlen_q, seqlen_k).begin) / tile_n;
}

// Called by one thread of the block of a tile of keys.
CUTE_DEVICE void await_turn(fa3_u32* turn, int key_tile) {
    auto const* const next = static_cast<fa3_u32 volatile const*>(turn);
    while (*next != static_cast<fa3_u32>(key_tile)) {
    }
    __threadfence();
}

// Both are called by all threads of a block.
CUTE_DEVICE void wait_turn(fa3_u32* turn, int key_tile) {
    if (threadIdx.x == 0) await_turn(turn, key_tile);
    __syncthreads();
}
CUTE_DEVICE void pass_turn(fa3_u32* turn) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(turn, 1u);
}

}  // namespace fa3
