// Two warps of bwd_sm90 that keep the order of additions to dq while the consumers compute: one waits for this block's turn
// at a tile, the other passes the turn on. One warp for both would take longer than a step: a fence and a poll.
#pragma once

#include "arch/sm90/uniform.cuh"
#include "bwd/bwd_sm90_storage.cuh"
#include "parts/turns.cuh"

namespace fa3 {

template <class C>
CUTE_DEVICE void await_turns(BwdParams const& p, SharedStorage<C>& smem) {
    Cursor<1> at;
    while (true) {
        smem.work_pipe.wait_full(at);
        KeyTile const& item = smem.work.tile;
        int const steps = uniform(smem.work.steps);
        if (steps < 0) break;
        int const key_tile = uniform(item.first_key / C::kTileN);
        CUTE_NO_UNROLL
        for (QueryStep step = item.first_step(p.sizes.heads_q / p.sizes.heads_kv); step.index < steps;
             item.advance(step, p.workspace.tiles)) {
            if (cutlass::canonical_lane_idx() == 0) await_turn(p.workspace.turns + step.place, key_tile);
            __syncwarp();
            if (step.index > 0) cutlass::arch::NamedBarrier::sync(C::kAddedThreads, kAdded);
            cutlass::arch::NamedBarrier::arrive(C::kTurnThreads, kTurn);
        }
        if (steps > 0) cutlass::arch::NamedBarrier::sync(C::kAddedThreads, kAdded);
        smem.work_pipe.release(at);
        at.advance();
    }
}

template <class C>
CUTE_DEVICE void pass_turns(BwdParams const& p, SharedStorage<C>& smem) {
    Cursor<1> at;
    while (true) {
        smem.work_pipe.wait_full(at);
        KeyTile const& item = smem.work.tile;
        int const steps = uniform(smem.work.steps);
        if (steps < 0) break;
        CUTE_NO_UNROLL
        for (QueryStep step = item.first_step(p.sizes.heads_q / p.sizes.heads_kv); step.index < steps;
             item.advance(step, p.workspace.tiles)) {
            cutlass::arch::NamedBarrier::sync(C::kAddedThreads, kAdded);
            if (cutlass::canonical_lane_idx() == 0) {  // behind the barrier, the fence covers all additions of the block
                __threadfence();
                atomicAdd(p.workspace.turns + step.place, 1u);
            }
        }
        smem.work_pipe.release(at);
        at.advance();
    }
}

}  // namespace fa3
