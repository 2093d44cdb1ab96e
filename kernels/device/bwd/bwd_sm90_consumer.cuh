// Consumer warpgroups of bwd_sm90: dk and dv of 64 keys each, and a part of dq of every step.
#pragma once

#include "arch/sm80/mma_sync.cuh"
#include "arch/sm90/place_descriptor.cuh"
#include "arch/sm90/reduce.cuh"
#include "arch/sm90/uniform.cuh"
#include "arch/sm90/wgmma.cuh"
#include "bwd/bwd_sm90_storage.cuh"
#include "parts/dq_order.cuh"
#include "parts/operand_rows.cuh"
#include "parts/softcap.cuh"
#include "parts/store_chunks.cuh"
#include "parts/gradient_scores.cuh"

namespace fa3 {

// The accumulators of dq: those of the scores, which are dead by then, if there are as many; registers are short.
template <int Count, class Scores, class Own>
CUTE_DEVICE auto& accumulators_of_dq(Scores& scores, Own& own) {
    if constexpr (sizeof(Scores) == Count * sizeof(float)) {
        return scores;
    } else {
        return own;
    }
}

// Writes the A operand of a warp, 16 keys, to its rows of slabs of TileN rows. Lane l writes a row of matrix l / 8.
template <int TileN, class Element, int Registers>
CUTE_DEVICE void stage_operand(Element* slabs, uint32_t const (&operand)[Registers], int warp, int lane) {
    int const row = warp * 16 + lane % 16;
    uint32_t const first = cute::cast_smem_ptr_to_uint(slabs) + row * kSlabRowBytes + ((lane / 16 ^ row % 8) << 4);
    CUTE_UNROLL
    for (int i = 0; i < Registers; i += 4) {
        uint32_t const slab = i / 16 * TileN * kSlabRowBytes;
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"((first ^ i % 16 << 3) + slab),
                     "r"(operand[i]), "r"(operand[i + 1]), "r"(operand[i + 2]), "r"(operand[i + 3])
                     : "memory");
    }
}

// `InOrder`: thread blocks take turns to add to a tile of dq. A body of its own: its branches would cost the other 4 %.
// Returns the phase of the next tile. Nothing is kept from one tile to the next, for registers are short.
template <class C, bool InOrder>
CUTE_DEVICE uint32_t consume_tile(BwdParams const& p, SharedStorage<C>& smem, int thread) {
    using Element = typename C::Element;
    constexpr int kSlab = kSlabColumns<Element>;
    constexpr uint32_t kAll = C::kConsumers * 128;
    int const lane = thread % 32;
    int const warp = thread / 32;  // of the consumers
    int const warpgroup = uniform(thread / 128);
    float const scale_log2 = p.scale.scale_log2;
    bool const capped = p.scale.softcap_scale != 0.f;
    using Storage = SharedStorage<C>;
    constexpr uint32_t kRowsOfWarpgroup = 64 * kSlabRowBytes;
    auto const q_offset = [](uint32_t stage) -> uint32_t { return offsetof(Storage, q) + stage * sizeof(Storage::q[0]); };
    auto const dout_offset = [](uint32_t stage) -> uint32_t { return offsetof(Storage, dout) + stage * sizeof(Storage::dout[0]); };
    int const first_column = warpgroup * C::kColumns;  // of this warpgroup's part of dq
    // S of a step: keys by queries.
    auto const issue_scores = [&](Cursor<C::kStages> at, float (&s)[C::kTileM / 2]) {
        fence_registers(s);
        cute::warpgroup_arrive();
        gemm_qk<Element, C::kTileM, C::kHeadDim, C::kTileN, C::kTileM>(
            descriptor_at(offsetof(Storage, k) + warpgroup * kRowsOfWarpgroup, 0), descriptor_at(q_offset(at.stage), 0), s);
        cute::warpgroup_commit_batch();
    };
    // This warpgroup's columns of dq = dS k, from the dS of all warpgroups.
    auto const issue_dq = [&](Cursor<2> at, float (&dq)[C::kColumns / 2]) {
        fence_registers(dq);
        cute::warpgroup_arrive();
        gemm_transposed<Element, C::kTileN, C::kColumns>(
            descriptor_at(offsetof(Storage, ds) + at.stage * sizeof(Storage::ds[0]), C::kTileN * kSlabRowBytes),
            descriptor_at(offsetof(Storage, k) + first_column / kSlab * C::kTileN * kSlabRowBytes +
                              first_column % kSlab * sizeof(Element), C::kTileN * kSlabRowBytes), dq);
        cute::warpgroup_commit_batch();
    };
    int const first_sum = accumulator_offset(warp % 4, first_column / 8, C::kHeadDim) + lane * 4;
    // Adds dq of a step to the sums, straight from its accumulators.
    auto const add_dq = [&](QueryStep const& step, float const (&dq)[C::kColumns / 2]) {
        if constexpr (InOrder) cutlass::arch::NamedBarrier::sync(C::kTurnThreads, kTurn);
        float* const sums = p.workspace.dq + fa3_i64(step.place) * (C::kTileM * C::kHeadDim) + first_sum;
        CUTE_UNROLL
        for (int column = 0; column < C::kColumns; column += 8) {
            if (C::kColumns * C::kConsumers > C::kHeadDim && first_column + column >= C::kHeadDim) break;
            add_to_global(sums + accumulator_offset(0, column / 8, C::kHeadDim), dq[column / 2], dq[column / 2 + 1],
                          dq[column / 2 + 2], dq[column / 2 + 3]);
        }
        if constexpr (InOrder) cutlass::arch::NamedBarrier::arrive(C::kAddedThreads, kAdded);
    };
    Work const& work = smem.work;
    KeyTile const& item = work.tile;
    int const steps = uniform(work.steps);
    float dk[C::kHeadDim / 2];
    float dv[C::kHeadDimV / 2];
    CUTE_UNROLL
    for (float& x : dk) x = 0.f;
    CUTE_UNROLL
    for (float& x : dv) x = 0.f;
    if (steps > 0) {
        int const steps_before = uniform(work.steps_before);
        smem.k_pipe.wait_full({0, work.keys_phase});
        bool const unseen = item.first_key < item.seen.begin || item.first_key + C::kTileN > item.seen.end;
        if (unseen) {
            smem.v_pipe.wait_full({0, work.keys_phase});
            clear_unseen_rows<C::kSlabs, C::kTileN>(smem.k, item, opaque(thread), kAll);
            clear_unseen_rows<C::kSlabsV, C::kTileN>(smem.v, item, opaque(thread), kAll);
            cutlass::arch::fence_view_async_shared();
            cutlass::arch::NamedBarrier::sync(kAll, kExchange);
        }
        QueryStep step = item.first_step(p.sizes.heads_q / p.sizes.heads_kv);
        QueryStep before{};
        float s[C::kTileM / 2];
        auto const first = Cursor<C::kStages>::of(steps_before);
        smem.q_pipe.wait_full(first);
        issue_scores(first, s);
        smem.v_pipe.wait_full({0, work.keys_phase});
        cute::warpgroup_wait<0>();
        fence_registers(s);
        CUTE_NO_UNROLL
        for (; step.index < steps; item.advance(step, p.workspace.tiles)) {
            int const count = uniform(steps_before + step.index);
            int const first_query = step.tile * C::kTileM;
            auto const at = Cursor<C::kStages>::of(count);
            auto const next = Cursor<C::kStages>::of(count + 1);
            float ds[C::kTileM / 2];
            smem.dout_pipe.wait_full(at);
            // dP - delta: the accumulators start from -delta.
            auto const* const minus_delta = statistics_of_lane(smem.minus_delta[at.stage], lane);
            CUTE_UNROLL
            for (int i = 0; i < C::kTileM / 2; i += 4) {
                float2 const of = minus_delta[i / 4];
                ds[i] = ds[i + 2] = of.x;
                ds[i + 1] = ds[i + 3] = of.y;
            }
            fence_registers(ds);
            cute::warpgroup_arrive();
            gemm_qk<Element, C::kTileM, C::kHeadDimV, C::kTileN, C::kTileM, ScaleOut::One>(
                descriptor_at(offsetof(Storage, v) + warpgroup * kRowsOfWarpgroup, 0), descriptor_at(dout_offset(at.stage), 0), ds);
            cute::warpgroup_commit_batch();

            bool const masked = item.is_masked(step.tile);
            // dS = P * (dP - delta), with the derivative of the cap as a factor; P takes the place of the scores.
            if (capped) {
                cap_scores(s, p.scale.softcap_scale);
                cute::warpgroup_wait<0>();
                fence_registers(ds);
                CUTE_UNROLL
                for (int i = 0; i < C::kTileM / 2; ++i) ds[i] *= 1.f - s[i] * s[i];
            }
            auto const* const lse = statistics_of_lane(smem.lse_log2[at.stage], lane);
            CUTE_UNROLL
            for (int i = 0; i < C::kTileM / 2; i += 4) {
                float2 const of = lse[i / 4];
                CUTE_UNROLL
                for (int j = 0; j < 4; ++j) s[i + j] = exp2_approx(fmaf(s[i + j], scale_log2, j % 2 ? -of.y : -of.x));
            }
            if (masked) {
                hide_queries(s, p.mask, item, first_query, thread);
            }
            // dv += P^T dout, with the transposed P in registers.
            uint32_t pr[C::kTileM / 4];
            to_operand<Element>(s, pr);
            fence_registers(dv);
            cute::warpgroup_arrive();
            gemm_pv<Element, C::kTileM, C::kHeadDimV>(
                pr, descriptor_at(dout_offset(at.stage), C::kTileM * kSlabRowBytes), dv);
            cute::warpgroup_commit_batch();
            cute::warpgroup_wait<1>();
            fence_registers(ds);
            CUTE_UNROLL
            for (int i = 0; i < C::kTileM / 2; ++i) ds[i] *= s[i];
            uint32_t dsr[C::kTileM / 4];
            to_operand<Element>(ds, dsr);
            // dq of the step before. In the first step its product is of no value and is not added.
            auto const exchange = Cursor<2>::of(count);
            auto const exchange_before = Cursor<2>::of(count + 1);
            if (step.index > 0) smem.ds_pipe.wait_full(Cursor<2>::of(count - 1));
            float own[C::kColumns / 2];
            auto& dq = accumulators_of_dq<C::kColumns / 2>(s, own);
            issue_dq(exchange_before, dq);
            smem.ds_pipe.wait_empty(exchange);
            stage_operand<C::kTileN>(smem.ds[exchange.stage], dsr, warp, lane);
            cutlass::arch::fence_view_async_shared();
            __syncwarp();
            if (lane == 0) smem.ds_pipe.publish(exchange);
            // dk += dS^T q.
            fence_registers(dk);
            cute::warpgroup_arrive();
            gemm_pv<Element, C::kTileM, C::kHeadDim>(
                dsr, descriptor_at(q_offset(at.stage), C::kTileM * kSlabRowBytes), dk);
            cute::warpgroup_commit_batch();
            cute::warpgroup_wait<1>();  // dv and dq; dk is in flight
            fence_registers(dv);
            fence_registers(dq);
            smem.dout_pipe.release(at);
            if (step.index > 0) {
                smem.ds_pipe.release(exchange_before);
                add_dq(before, dq);
            }
            // S of the next step; behind the last step it is of no value.
            if (step.index + 1 < steps) smem.q_pipe.wait_full(next);
            issue_scores(next, s);
            cute::warpgroup_wait<0>();
            fence_registers(dk);
            fence_registers(s);
            smem.q_pipe.release(at);
            before = step;
        }
        smem.v_pipe.release({});
        auto const last = Cursor<2>::of(steps_before + steps - 1);
        float dq[C::kColumns / 2];
        smem.ds_pipe.wait_full(last);
        issue_dq(last, dq);
        cute::warpgroup_wait<0>();
        fence_registers(dq);
        smem.ds_pipe.release(last);
        smem.k_pipe.release({});
        add_dq(before, dq);
    }

    auto const first_of = [&](Operand const& gradient) {
        return sequence_rows<Element>(gradient, item.batch, p.sequences.cu_seqlens_k != nullptr, item.keys.start) +
               item.head_kv * gradient.stride_head + item.first_key * gradient.stride_row;
    };
    int const rows = item.keys.slot - item.first_key;
    Element* const first_dk = first_of(p.dk);
    Element* const first_dv = first_of(p.dv);
    uint32_t const next_phase = work.phase ^ 1;
    __syncwarp();
    smem.work_pipe.release({});
    CUTE_UNROLL
    for (float& x : dk) x *= p.softmax_scale;
    auto const store = [&](auto& sums, Element* tile, Element* first, fa3_i64 const& stride_row, int const& columns) {
        constexpr int kColumns = sizeof(sums) / sizeof(float) * 2;
        uint32_t operand[kColumns / 4];
        to_operand<Element>(sums, operand);
        stage_operand<C::kTileN>(tile, operand, warp, lane);
        __syncwarp();
        store_staged_rows<Element, C::kTileN, 16, kColumns>(
            reinterpret_cast<unsigned char*>(tile), warp, 0, columns, [&](int row) { return row < rows; },
            [&](int row) { return first + row * stride_row; });
    };
    store(dk, smem.dk, first_dk, p.dk.stride_row, p.sizes.head_dim);
    store(dv, smem.dv, first_dv, p.dv.stride_row, p.sizes.head_dim_v);
    __syncwarp();  // the rows of the next tile come to the same place
    return next_phase;
}

template <class C, bool InOrder>
CUTE_DEVICE void consume(BwdParams const& p, SharedStorage<C>& smem) {
    uint32_t phase = 0;
    while (true) {
        smem.work_pipe.wait_full({0, phase});
        if (smem.work.steps < 0) break;
        phase = consume_tile<C, InOrder>(p, smem, opaque(threadIdx.x) - 128);
    }
}

}  // namespace fa3
