// Consumer warpgroups of bwd_queries_sm90: dq of 64 queries each.
#pragma once

#include "arch/sm90/place_descriptor.cuh"
#include "arch/sm90/uniform.cuh"
#include "arch/sm90/wgmma.cuh"
#include "bwd/bwd_queries_sm90_storage.cuh"
#include "parts/operand_rows.cuh"
#include "parts/softcap.cuh"
#include "parts/store_accumulators.cuh"
#include "parts/gradient_scores.cuh"

namespace fa3 {

// Overwrites rows of a block of k and v that no query of the sequence sees with zeros. Called by all consumers.
template <class C>
CUTE_DEVICE void clear_unseen_keys(SharedStorage<C>& smem, QueryBlock const& item, int block, uint32_t stage) {
    KeyTile rows;
    rows.first_key = block * C::kTileN;
    rows.seen = item.seen;
    int const thread = opaque(threadIdx.x) - 128;
    clear_unseen_rows<C::kSlabs, C::kTileN>(smem.k[stage], rows, thread, C::kConsumers * 128);
    clear_unseen_rows<C::kSlabsV, C::kTileN>(smem.v, rows, thread, C::kConsumers * 128);
    cutlass::arch::fence_view_async_shared();
    cutlass::arch::NamedBarrier::sync(C::kConsumers * 128, 1);
}

// Of the statistics of a query row: -delta or the LSE; `hidden` for a row behind the last one.
CUTE_DEVICE float statistic_of_row(BwdParams const& p, float const* statistics, QueryBlock const& item, int row, float hidden) {
    if (row >= item.queries.length) return hidden;
    int const tile_m = p.workspace.tile_m;
    int const tile = row / tile_m;
    fa3_i64 const place = workspace_tile(p, item.batch, item.head, tile) * tile_m;
    return statistics[place + statistics_place(row - tile * tile_m, tile_m)];
}

// Returns the phase of the next tile. Nothing is kept from one tile to the next, for registers are short.
template <class C>
CUTE_DEVICE uint32_t compute_dq(BwdParams const& p, SharedStorage<C>& smem, int thread) {
    using Element = typename C::Element;
    using Storage = SharedStorage<C>;
    int const lane = thread % 32;
    int const warpgroup = uniform(thread / 128);
    QueryBlock const& item = smem.work.tile;
    int const steps = uniform(smem.work.steps);
    float const scale_log2 = p.scale.scale_log2;
    bool const capped = p.scale.softcap_scale != 0.f;
    constexpr uint32_t kRowsOfWarpgroup = 64 * kSlabRowBytes;
    float dq[C::kHeadDim / 2];
    CUTE_UNROLL
    for (float& x : dq) x = 0.f;
    if (steps > 0) {
        int const steps_before = uniform(smem.work.steps_before);
        int const first_row = item.first_query + thread / 32 * 16 + lane / 4;
        float lse[2], minus_delta[2];
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            lse[half] = statistic_of_row(p, p.workspace.lse_log2, item, first_row + half * 8, infinity());
            minus_delta[half] = statistic_of_row(p, p.workspace.minus_delta, item, first_row + half * 8, 0.f);
        }
        float s[C::kScores], ds[C::kScores];
        // S and dP - delta of a step, whose k and v have arrived: queries by keys.
        auto const issue_scores = [&](int count) {
            auto const at = Cursor<C::kStages>::of(count);
            fence_registers(s);
            CUTE_UNROLL
            for (int i = 0; i < C::kScores; ++i) ds[i] = minus_delta[i / 2 % 2];
            fence_registers(ds);
            cute::warpgroup_arrive();
            gemm_qk<Element, C::kTileN, C::kHeadDim, C::kTileM, C::kTileN>(
                descriptor_at(offsetof(Storage, q) + warpgroup * kRowsOfWarpgroup, 0),
                descriptor_at(offsetof(Storage, k) + at.stage * sizeof(Storage::k[0]), 0), s);
            gemm_qk<Element, C::kTileN, C::kHeadDimV, C::kTileM, C::kTileN, ScaleOut::One>(
                descriptor_at(offsetof(Storage, dout) + warpgroup * kRowsOfWarpgroup, 0), descriptor_at(offsetof(Storage, v), 0),
                ds);
            cute::warpgroup_commit_batch();
        };
        auto const await_keys = [&](int count, int block) {
            smem.k_pipe.wait_full(Cursor<C::kStages>::of(count));
            smem.v_pipe.wait_full(Cursor<1>::of(count));
            int const first_key = block * C::kTileN;
            if (first_key < item.seen.begin || first_key + C::kTileN > item.seen.end) {
                clear_unseen_keys<C>(smem, item, block, Cursor<C::kStages>::of(count).stage);
            }
        };
        smem.q_pipe.wait_full({0, smem.work.query_phase});
        await_keys(steps_before, item.block_begin);
        issue_scores(steps_before);
        cute::warpgroup_wait<0>();
        fence_registers(s);
        fence_registers(ds);
        CUTE_NO_UNROLL
        for (int step = 0; step < steps; ++step) {
            int const count = uniform(steps_before + step);
            int const block = item.block_begin + step;
            smem.v_pipe.release({});
            // dS = P * (dP - delta), with the derivative of the cap as a factor; P takes the place of the scores.
            if (capped) {
                cap_scores(s, p.scale.softcap_scale);
                CUTE_UNROLL
                for (int i = 0; i < C::kScores; ++i) ds[i] *= 1.f - s[i] * s[i];
            }
            CUTE_UNROLL
            for (int i = 0; i < C::kScores; ++i) s[i] = exp2_approx(fmaf(s[i], scale_log2, -lse[i / 2 % 2]));
            if (item.is_masked(block)) {
                CUTE_UNROLL
                for (int half = 0; half < 2; ++half) {
                    int const here = opaque(thread);
                    int const row = item.first_query + here / 32 * 16 + half * 8 + here % 32 / 4;
                    KeyRange const sees = visible_keys<MaskClass::kLocal>(p.mask, row, item.queries.length, item.keys.length);
                    int const first = block * C::kTileN + here % 4 * 2;
                    hide_columns(s, half, sees.begin - first, sees.end - first);
                }
            }
            CUTE_UNROLL
            for (int i = 0; i < C::kScores; ++i) ds[i] *= s[i];
            uint32_t dsr[C::kScores / 2];
            to_operand<Element>(ds, dsr);
            auto const at = Cursor<C::kStages>::of(count);
            fence_registers(dq);
            cute::warpgroup_arrive();
            gemm_pv<Element, C::kTileN, C::kHeadDim>(
                dsr, descriptor_at(offsetof(Storage, k) + at.stage * sizeof(Storage::k[0]), C::kTileN * kSlabRowBytes), dq);
            cute::warpgroup_commit_batch();
            // Those of the next step; behind the last step they are of no value.
            if (step + 1 < steps) await_keys(count + 1, block + 1);
            issue_scores(count + 1);
            cute::warpgroup_wait<0>();
            fence_registers(dq);
            fence_registers(s);
            fence_registers(ds);
            smem.k_pipe.release(at);
        }
        smem.q_pipe.release({});
    }
    int const warp_row = item.first_query + thread / 32 * 16;
    auto* const first = sequence_rows<Element>(p.dq, item.batch, p.sequences.cu_seqlens_q != nullptr, item.queries.start) +
                        item.head * p.dq.stride_head + warp_row * p.dq.stride_row;
    int const rows = item.queries.slot - warp_row;
    uint32_t const next_phase = smem.work.phase ^ 1;
    __syncwarp();
    smem.work_pipe.release({});
    store_accumulators<Element>(dq, p.softmax_scale, lane, p.sizes.head_dim,
                                [&](int row) { return row < rows ? first + row * p.dq.stride_row : nullptr; });
    return next_phase;
}

}  // namespace fa3
