// Consumer warpgroups of bwd_keys_sm90: one computes P and dv, the other dS and dk, of the same 64 keys.
#pragma once

#include "arch/sm90/place_descriptor.cuh"
#include "arch/sm90/uniform.cuh"
#include "arch/sm90/wgmma.cuh"
#include "bwd/bwd_keys_sm90_storage.cuh"
#include "parts/operand_rows.cuh"
#include "parts/softcap.cuh"
#include "parts/store_accumulators.cuh"
#include "parts/gradient_scores.cuh"

namespace fa3 {

// Where a warp of 16 keys stores a gradient. Taken before the tile is released, stored behind it.
template <class Element>
struct GradientRows {
    Element* first;  // of the warp's first key
    fa3_i64 stride;
    int rows;  // that exist from there on

    CUTE_DEVICE GradientRows(BwdParams const& p, KeyTile const& item, Operand const& gradient, int warp)
        : first(sequence_rows<Element>(gradient, item.batch, p.sequences.cu_seqlens_k != nullptr, item.keys.start) +
                item.head_kv * gradient.stride_head + (item.first_key + warp * 16) * gradient.stride_row),
          stride(gradient.stride_row),
          rows(item.keys.slot - item.first_key - warp * 16) {}

    CUTE_DEVICE Element* row(int i) const { return i < rows ? first + i * stride : nullptr; }
};

// Releases the tile; the fields that are needed behind it have been read. Returns the phase of the next one.
template <class C>
CUTE_DEVICE uint32_t leave_tile(SharedStorage<C>& smem) {
    uint32_t const next_phase = smem.work.phase ^ 1;
    __syncwarp();
    smem.work_pipe.release({});
    return next_phase;
}

// P = exp(S - LSE), handed to the other warpgroup, and dv += P^T dout. Returns the phase of the next tile.
template <class C>
CUTE_DEVICE uint32_t compute_dv(BwdParams const& p, SharedStorage<C>& smem, int thread) {
    using Element = typename C::Element;
    using Storage = SharedStorage<C>;
    int const lane = thread % 32;
    KeyTile const& item = smem.work.tile;
    int const steps = uniform(smem.work.steps);
    float const scale_log2 = p.scale.scale_log2;
    bool const capped = p.scale.softcap_scale != 0.f;
    float dv[C::kHeadDimV / 2];
    CUTE_UNROLL
    for (float& x : dv) x = 0.f;
    // S of a step: keys by queries.
    auto const issue_scores = [&](Cursor<C::kStages> at, float (&s)[C::kScores]) {
        fence_registers(s);
        cute::warpgroup_arrive();
        gemm_qk<Element, C::kTileM, C::kHeadDim, C::kTileN, C::kTileM>(
            descriptor_at(offsetof(Storage, k), 0), descriptor_at(offsetof(Storage, q) + at.stage * sizeof(Storage::q[0]), 0), s);
        cute::warpgroup_commit_batch();
    };
    if (steps > 0) {
        int const steps_before = uniform(smem.work.steps_before);
        smem.k_pipe.wait_full({0, smem.work.keys_phase});
        if (item.first_key < item.seen.begin || item.first_key + C::kTileN > item.seen.end) {
            clear_unseen_rows<C::kSlabs, C::kTileN>(smem.k, item, opaque(thread), 128);
            cutlass::arch::fence_view_async_shared();
            cutlass::arch::NamedBarrier::sync(128, 1);
        }
        QueryStep step = item.first_step(p.sizes.heads_q / p.sizes.heads_kv);
        float s[C::kScores];
        auto const first = Cursor<C::kStages>::of(steps_before);
        smem.q_pipe.wait_full(first);
        issue_scores(first, s);
        cute::warpgroup_wait<0>();
        fence_registers(s);
        CUTE_NO_UNROLL
        for (; step.index < steps; item.advance(step, p.workspace.tiles)) {
            int const count = uniform(steps_before + step.index);
            auto const at = Cursor<C::kStages>::of(count);
            auto const next = Cursor<C::kStages>::of(count + 1);
            auto const exchange = Cursor<2>::of(count);
            float derivative[C::kScores];
            if (capped) {
                cap_scores(s, p.scale.softcap_scale);
                CUTE_UNROLL
                for (int i = 0; i < C::kScores; ++i) derivative[i] = 1.f - s[i] * s[i];
            }
            auto const* const lse = statistics_of_lane(smem.lse_log2[at.stage], lane);
            CUTE_UNROLL
            for (int i = 0; i < C::kScores; i += 4) {
                float2 const of = lse[i / 4];
                CUTE_UNROLL
                for (int j = 0; j < 4; ++j) s[i + j] = exp2_approx(fmaf(s[i + j], scale_log2, j % 2 ? -of.y : -of.x));
            }
            __syncwarp();
            smem.q_pipe.release(at);
            if (item.is_masked(step.tile)) {
                hide_queries(s, p.mask, item, step.tile * C::kTileM, thread);
            }
            smem.weights_pipe.wait_empty(exchange);
            CUTE_UNROLL
            for (int i = 0; i < C::kScores; i += 4) {
                float4 weights{s[i], s[i + 1], s[i + 2], s[i + 3]};
                if (capped) {
                    weights.x *= derivative[i];
                    weights.y *= derivative[i + 1];
                    weights.z *= derivative[i + 2];
                    weights.w *= derivative[i + 3];
                }
                smem.weights[exchange.stage][i / 4][thread] = weights;
            }
            __syncwarp();
            if (lane == 0) smem.weights_pipe.publish(exchange);
            uint32_t pr[C::kScores / 2];
            to_operand<Element>(s, pr);
            smem.dout_pipe.wait_full(at);
            fence_registers(dv);
            cute::warpgroup_arrive();
            gemm_pv<Element, C::kTileM, C::kHeadDimV>(
                pr, descriptor_at(offsetof(Storage, dout) + at.stage * sizeof(Storage::dout[0]), C::kTileM * kSlabRowBytes), dv);
            cute::warpgroup_commit_batch();
            // S of the next step; behind the last step it is of no value.
            if (step.index + 1 < steps) smem.q_pipe.wait_full(next);
            issue_scores(next, s);
            cute::warpgroup_wait<0>();
            fence_registers(dv);
            fence_registers(s);
            smem.dout_pipe.release(at);
        }
        smem.k_pipe.release({});
    }
    GradientRows<Element> const to(p, item, p.dv, thread / 32);
    uint32_t const next_phase = leave_tile(smem);
    store_accumulators<Element>(dv, 1.f, lane, p.sizes.head_dim_v, [&](int row) { return to.row(row); });
    return next_phase;
}

// dS = P * (dP - delta), and dk += dS^T q. Returns the phase of the next tile.
template <class C>
CUTE_DEVICE uint32_t compute_dk(BwdParams const& p, SharedStorage<C>& smem, int thread) {
    using Element = typename C::Element;
    using Storage = SharedStorage<C>;
    int const lane = thread % 32;
    KeyTile const& item = smem.work.tile;
    int const steps = uniform(smem.work.steps);
    float dk[C::kHeadDim / 2];
    CUTE_UNROLL
    for (float& x : dk) x = 0.f;
    // dP - delta of a step: the accumulators start from -delta.
    auto const issue_ds = [&](Cursor<C::kStages> at, float (&ds)[C::kScores]) {
        auto const* const minus_delta = statistics_of_lane(smem.minus_delta[at.stage], lane);
        CUTE_UNROLL
        for (int i = 0; i < C::kScores; i += 4) {
            float2 const of = minus_delta[i / 4];
            ds[i] = ds[i + 2] = of.x;
            ds[i + 1] = ds[i + 3] = of.y;
        }
        fence_registers(ds);
        cute::warpgroup_arrive();
        gemm_qk<Element, C::kTileM, C::kHeadDimV, C::kTileN, C::kTileM, ScaleOut::One>(
            descriptor_at(offsetof(Storage, v), 0), descriptor_at(offsetof(Storage, dout) + at.stage * sizeof(Storage::dout[0]), 0),
            ds);
        cute::warpgroup_commit_batch();
    };
    if (steps > 0) {
        int const steps_before = uniform(smem.work.steps_before);
        smem.v_pipe.wait_full({0, smem.work.keys_phase});
        if (item.first_key < item.seen.begin || item.first_key + C::kTileN > item.seen.end) {
            clear_unseen_rows<C::kSlabsV, C::kTileN>(smem.v, item, opaque(thread), 128);
            cutlass::arch::fence_view_async_shared();
            cutlass::arch::NamedBarrier::sync(128, 2);
        }
        float ds[C::kScores];
        auto const first = Cursor<C::kStages>::of(steps_before);
        smem.dout_pipe.wait_full(first);
        issue_ds(first, ds);
        cute::warpgroup_wait<0>();
        fence_registers(ds);
        CUTE_NO_UNROLL
        for (int step = 0; step < steps; ++step) {
            int const count = uniform(steps_before + step);
            auto const at = Cursor<C::kStages>::of(count);
            auto const next = Cursor<C::kStages>::of(count + 1);
            auto const exchange = Cursor<2>::of(count);
            smem.dout_pipe.release(at);
            smem.weights_pipe.wait_full(exchange);
            CUTE_UNROLL
            for (int i = 0; i < C::kScores; i += 4) {
                float4 const weights = smem.weights[exchange.stage][i / 4][thread];
                ds[i] *= weights.x;
                ds[i + 1] *= weights.y;
                ds[i + 2] *= weights.z;
                ds[i + 3] *= weights.w;
            }
            uint32_t dsr[C::kScores / 2];
            to_operand<Element>(ds, dsr);
            __syncwarp();
            smem.weights_pipe.release(exchange);
            smem.q_pipe.wait_full(at);
            fence_registers(dk);
            cute::warpgroup_arrive();
            gemm_pv<Element, C::kTileM, C::kHeadDim>(
                dsr, descriptor_at(offsetof(Storage, q) + at.stage * sizeof(Storage::q[0]), C::kTileM * kSlabRowBytes), dk);
            cute::warpgroup_commit_batch();
            // dP of the next step; behind the last step it is of no value.
            if (step + 1 < steps) smem.dout_pipe.wait_full(next);
            issue_ds(next, ds);
            cute::warpgroup_wait<0>();
            fence_registers(dk);
            fence_registers(ds);
            smem.q_pipe.release(at);
        }
        smem.v_pipe.release({});
    }
    GradientRows<Element> const to(p, item, p.dk, thread / 32);
    uint32_t const next_phase = leave_tile(smem);
    store_accumulators<Element>(dk, p.softmax_scale, lane, p.sizes.head_dim, [&](int row) { return to.row(row); });
    return next_phase;
}

}  // namespace fa3
