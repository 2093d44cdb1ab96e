// Producer thread of bwd_sm90: issues the loads of k, v, and of q, dout and their statistics, step by step.
#pragma once

#include "bwd/bwd_sm90_storage.cuh"
#include "parts/load_tma.cuh"

namespace fa3 {

template <class C>
CUTE_DEVICE void produce(BwdParams const& p, SharedStorage<C>& smem) {
    constexpr uint32_t kBytesKeys = (C::kSlabs + C::kSlabsV) * C::kTileN * kSlabRowBytes;
    constexpr uint32_t kBytesRows = C::kTileM * sizeof(float);
    constexpr uint32_t kBytesQ = C::kSlabs * C::kTileM * kSlabRowBytes + kBytesRows;
    constexpr uint32_t kBytesDout = C::kSlabsV * C::kTileM * kSlabRowBytes + kBytesRows;
    KeyTile const& item = smem.item;
    int const group = p.sizes.heads_q / p.sizes.heads_kv;
    int const steps = item.steps(group);
    if (steps == 0) return;

    auto const origin = [&](MapSteps const& map_steps, SequenceRows const& rows, bool ragged) {
        return ragged ? slot_origin(map_steps, item.batch, rows.start, rows.length) : MapOrigin{0, 0, item.batch};
    };
    TransactionBarrier::arrive_and_expect_tx(&smem.keys_full, kBytesKeys);
    load_box<C::kSlabs>(p.k_map, &smem.keys_full, CacheHint::EVICT_FIRST, smem.k, C::kTileN,
                        origin(p.k_steps, item.keys, p.storage.ragged_k), item.first_key, item.head_kv);
    load_box<C::kSlabsV>(p.v_map, &smem.keys_full, CacheHint::EVICT_FIRST, smem.v, C::kTileN,
                         origin(p.v_steps, item.keys, p.storage.ragged_k), item.first_key, item.head_kv);

    MapOrigin const q_origin = origin(p.q_steps, item.queries, p.storage.ragged_q);
    MapOrigin const dout_origin = origin(p.dout_steps, item.queries, p.storage.ragged_q);
    Cursor<C::kStages> at;
    CUTE_NO_UNROLL
    for (QueryStep step = item.first_step(p); step.index < steps; item.advance(step, p.workspace.tiles)) {
        int const row = step.tile * C::kTileM;
        fa3_i64 const place = fa3_i64(step.place) * C::kTileM;
        smem.q_pipe.wait_empty(at);
        smem.q_pipe.expect(at, kBytesQ);
        load_box<C::kSlabs>(p.q_map, &smem.q_pipe.full[at.stage], CacheHint::EVICT_LAST, smem.q[at.stage], C::kTileM,
                            q_origin, row, step.head);
        cute::SM90_BULK_COPY_G2S::copy(p.workspace.lse_log2 + place, &smem.q_pipe.full[at.stage],
                                       smem.lse_log2[at.stage], kBytesRows);
        smem.dout_pipe.wait_empty(at);
        smem.dout_pipe.expect(at, kBytesDout);
        load_box<C::kSlabsV>(p.dout_map, &smem.dout_pipe.full[at.stage], CacheHint::EVICT_LAST, smem.dout[at.stage],
                             C::kTileM, dout_origin, row, step.head);
        cute::SM90_BULK_COPY_G2S::copy(p.workspace.minus_delta + place, &smem.dout_pipe.full[at.stage],
                                       smem.minus_delta[at.stage], kBytesRows);
        at.advance();
    }
}

}  // namespace fa3
