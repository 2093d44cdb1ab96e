// Producer warp of bwd_queries_sm90: finds tiles of queries and issues all loads.
#pragma once

#include "arch/sm90/uniform.cuh"
#include "bwd/bwd_queries_sm90_storage.cuh"
#include "parts/load_tma.cuh"
#include "parts/sequence_boxes.cuh"
#include "parts/tile_queue.cuh"

namespace fa3 {

// q and dout of a tile, in boxes of kBoxRows rows. Called by one thread.
template <class C>
CUTE_DEVICE void load_queries(BwdParams const& p, SharedStorage<C>& smem) {
    QueryBlock const& item = smem.next.tile;
    bool const ragged = p.storage.ragged_q;
    constexpr int kSlab = kSlabColumns<typename C::Element>;
    Cursor<1> const at{0, smem.next.query_phase};
    smem.q_pipe.wait_empty(at);
    smem.q_pipe.expect(at, (C::kSlabs + C::kSlabsV) * C::kTileM * kSlabRowBytes);
    CUTE_NO_UNROLL
    for (int row = 0; row < C::kTileM; row += C::kBoxRows) {
        load_box<C::kSlabs>(p.q_map, smem.q_pipe.full, CacheHint::EVICT_FIRST, smem.q + row * kSlab, C::kTileM,
                            box_origin(p.q_steps, item.batch, item.queries, ragged), item.first_query + row, item.head);
    }
    CUTE_NO_UNROLL
    for (int row = 0; row < C::kTileM; row += C::kBoxRows) {
        load_box<C::kSlabsV>(p.dout_map, smem.q_pipe.full, CacheHint::EVICT_FIRST, smem.dout + row * kSlab, C::kTileM,
                             box_origin(p.dout_steps, item.batch, item.queries, ragged), item.first_query + row, item.head);
    }
    smem.next.query_phase ^= 1;
}

// k and v of all blocks of keys. Called by one thread.
template <class C>
CUTE_DEVICE void load_keys(BwdParams const& p, SharedStorage<C>& smem) {
    QueryBlock const& item = smem.next.tile;
    bool const ragged = p.storage.ragged_k;
    CUTE_NO_UNROLL
    for (int step = 0; step < smem.next.steps; ++step) {
        int const count = smem.next.steps_before + step;
        int const row = (item.block_begin + step) * C::kTileN;
        auto const at_k = Cursor<C::kStages>::of(count);
        smem.k_pipe.wait_empty(at_k);
        smem.k_pipe.expect(at_k, C::kSlabs * C::kTileN * kSlabRowBytes);
        load_box<C::kSlabs>(p.k_map, &smem.k_pipe.full[at_k.stage], CacheHint::EVICT_LAST, smem.k[at_k.stage], C::kTileN,
                            box_origin(p.k_steps, item.batch, item.keys, ragged), row, item.head_kv);
        auto const at_v = Cursor<1>::of(count);
        smem.v_pipe.wait_empty(at_v);
        smem.v_pipe.expect(at_v, C::kSlabsV * C::kTileN * kSlabRowBytes);
        load_box<C::kSlabsV>(p.v_map, smem.v_pipe.full, CacheHint::EVICT_LAST, smem.v, C::kTileN,
                             box_origin(p.v_steps, item.batch, item.keys, ragged), row, item.head_kv);
    }
}

// Called by one thread.
template <class C>
CUTE_DEVICE void produce(BwdParams const& p, SharedStorage<C>& smem) {
    Work& next = smem.next;
    next.phase = next.query_phase = next.steps_before = 0;
    auto const tiles = [&] {  // computed where it is needed, for registers are short
        int const rows = opaque(p.tiles_m) * p.workspace.tile_m;
        return p.sizes.batch * p.sizes.heads_q * ((rows + C::kTileM - 1) / C::kTileM);
    };
    int index = blockIdx.x;
    while (index < tiles()) {
        find_query_block<C::kTileM, C::kTileN>(p, index, next.tile);
        next.steps = max(0, next.tile.block_end - next.tile.block_begin);
        if (next.tile.first_query < next.tile.queries.slot) {  // else a tile of a ragged batch, of which `tiles` is a bound
            smem.work_pipe.wait_empty({0, next.phase});
            smem.work = next;
            smem.work_pipe.publish({});
            if (next.steps > 0) {
                load_queries<C>(p, smem);
                load_keys<C>(p, smem);
            }
            next.phase ^= 1;
            next.steps_before += next.steps;
        }
        int blocks;
        asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(blocks));  // not kept in a register meanwhile
        index = blocks + static_cast<int>(atomicAdd(&p.queue->next, 1u));
    }
    next.steps = -1;
    smem.work_pipe.wait_empty({0, next.phase});
    smem.work = next;
    smem.work_pipe.publish({});
}

}  // namespace fa3
