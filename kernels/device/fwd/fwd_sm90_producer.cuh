// Producer warp of fwd_sm90: finds work items and issues the loads of q, k and v.
#pragma once

#include "fwd/fwd_sm90_storage.cuh"
#include "params/fwd.h"
#include "parts/load_tma.cuh"
#include "parts/tile_order.cuh"
#include "parts/tile_queue.cuh"

namespace fa3 {

template <class C>
CUTE_DEVICE void produce(FwdParams const& p, SharedStorage<C>& smem) {
    constexpr uint32_t kBytesQ = C::kSlabs * C::kTileM * kSlabRowBytes;
    int const lane = cutlass::canonical_lane_idx();
    int const group = p.sizes.heads_q / p.sizes.heads_kv;
    Cursor<C::kStagesQ> at_q;
    Cursor<C::kStages> at_k, at_v;
    Cursor<2> at_work;
    TileOrder<C::kMask, C::kTileM, C::kTileN> order{{p.sequences, p.sizes, p.storage, p.mask, p.tiles}};

    int index = blockIdx.x;
    while (true) {
        auto slot = next_work(smem, at_work, order, index);
        WorkItem const& item = slot.item;
        slot.first_key = first_seen_key<C::kMask>(p.mask, item.seqlen_q, item.seqlen_k);
        publish_work(smem, at_work, slot);
        at_work.advance();
        if (item.head < 0) break;

        int const head_kv = item.head / group;
        auto load_k = [&](int block) {
            load_key_block<C::kMask, C::kSlabs, C::kTileN>(p.sequences, p.storage, p.mask, p.box_rows_kv, p.k_map, p.k_steps, smem.k_pipe, at_k,
                                                 smem.k[at_k.stage], item, block, head_kv, 0);
            at_k.advance();
        };
        auto load_v = [&](int block) {
            load_key_block<C::kMask, C::kSlabsV, C::kTileN>(p.sequences, p.storage, p.mask, p.box_rows_kv, p.v_map, p.v_steps, smem.v_pipe, at_v,
                                                  smem.v[at_v.stage], item, block, head_kv, item.slice * C::kSlabsV);
            at_v.advance();
        };
        smem.q_pipe.wait_empty(at_q);
        if (lane == 0) {
            smem.q_pipe.expect(at_q, kBytesQ);
            load_box<C::kSlabs>(p.q_map, &smem.q_pipe.full[at_q.stage], CacheHint::EVICT_FIRST, smem.q[at_q.stage],
                                C::kTileM, map_origin(p.storage.ragged_q, item.start_q, item.seqlen_q, item.batch),
                                item.first_row >> p.tiles.pack_shift, item.head);
        }
        at_q.advance();
        NextTile next;
        load_k(item.block_end - 1);
        CUTE_NO_UNROLL
        for (int block = item.block_end - 2; block >= item.block_begin; --block) {
            load_k(block);
            if (block == item.block_begin && !slot.recompute) next.request(p.queue);
            load_v(block + 1);
        }
        if (item.block_end - 1 == item.block_begin && !slot.recompute) next.request(p.queue);
        load_v(item.block_begin);
        if (!slot.recompute) index = next.index();
    }
    leave_queue(p.queue);
}

}  // namespace fa3
