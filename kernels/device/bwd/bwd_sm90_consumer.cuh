// Consumer warpgroups of bwd_sm90: dk and dv of 64 keys each, and a part of dq of every step.
#pragma once

#include "arch/sm80/mma_sync.cuh"
#include "arch/sm90/reduce.cuh"
#include "arch/sm90/wgmma.cuh"
#include "bwd/bwd_sm90_storage.cuh"
#include "parts/dq_order.cuh"
#include "parts/operand_rows.cuh"
#include "parts/softcap.cuh"
#include "parts/store_chunks.cuh"
#include "parts/turns.cuh"

namespace fa3 {

// Overwrites rows of k and v that no query of the sequence sees with zeros: they may hold anything, and 0 * NaN is NaN.
template <class C, int Slabs>
CUTE_DEVICE void clear_unseen_rows(typename C::Element* tile, KeyTile const& item, int warpgroup) {
    constexpr int kSlab = kSlabColumns<typename C::Element>;
    CUTE_UNROLL
    for (int slab = 0; slab < Slabs; ++slab) {
        auto* const pairs = reinterpret_cast<uint32_t*>(tile + (slab * C::kTileN + warpgroup * 64) * kSlab);
        for (int i = threadIdx.x % 128; i < 64 * kSlab / 2; i += 128) {
            int const key = item.first_key + warpgroup * 64 + i / (kSlab / 2);
            if (key < item.seen.begin || key >= item.seen.end) pairs[i] = 0;
        }
    }
}

// Sets P of one key of a lane to 0 where a query does not see the key; `first`: the lane's first query.
template <int Scores>
CUTE_DEVICE void hide_queries(float (&p)[Scores], int half, QueryRange sees, int first) {
    CUTE_UNROLL
    for (int i = 0; i < Scores / 4; ++i) {
        CUTE_UNROLL
        for (int j = 0; j < 2; ++j) {
            int const query = first + i * 8 + j;
            if (query < sees.begin || query >= sees.end) p[i * 4 + half * 2 + j] = 0.f;
        }
    }
}

// The statistics of the queries of one lane (`parts/query_tiles.cuh`).
template <int TileM>
CUTE_DEVICE float4 const* statistics_of_lane(float const (&rows)[TileM], int lane) {
    return reinterpret_cast<float4 const*>(rows + lane % 4 * (TileM / 4));
}

template <class C>
CUTE_DEVICE void consume(BwdParams const& p, SharedStorage<C>& smem, int warpgroup) {
    using Element = typename C::Element;
    constexpr int kSlab = kSlabColumns<Element>;
    constexpr uint32_t kAll = C::kConsumers * 128;
    constexpr uint32_t kExchange = 1;  // named barriers; 0 is that of __syncthreads
    constexpr uint32_t kOrder = 2;
    int const lane = cutlass::canonical_lane_idx();
    int const warp = warpgroup * 4 + threadIdx.x % 128 / 32;
    KeyTile const& item = smem.item;
    int const group = p.sizes.heads_q / p.sizes.heads_kv;
    int const steps = item.steps(group);
    float const scale_log2 = p.scale.scale_log2;
    bool const capped = p.scale.softcap_scale != 0.f;

    float dk[C::kHeadDim / 2];
    float dv[C::kHeadDimV / 2];
    CUTE_UNROLL
    for (float& x : dk) x = 0.f;
    CUTE_UNROLL
    for (float& x : dv) x = 0.f;
    if (steps > 0) {
        Barrier::wait(&smem.keys_full, 0);
        bool const unseen = item.first_key < item.seen.begin || item.first_key + C::kTileN > item.seen.end;
        if (unseen) {
            clear_unseen_rows<C, C::kSlabs>(smem.k, item, warpgroup);
            clear_unseen_rows<C, C::kSlabsV>(smem.v, item, warpgroup);
            cutlass::arch::fence_view_async_shared();
            cutlass::arch::NamedBarrier::sync(kAll, kExchange);
        }
    }
    int const row_group = C::kRowGroups == 1 ? 0 : warpgroup;  // of dq
    int const column_group = C::kSharesColumns ? warpgroup : 0;
    Cursor<C::kStages> at;
    CUTE_NO_UNROLL
    for (int index = 0; index < steps; ++index) {
        QueryTile const step = item.step(index, group);
        int const first_query = step.tile * C::kTileM;
        float s[C::kTileM / 2];
        float ds[C::kTileM / 2];
        smem.q_pipe.wait_full(at);
        fence_registers(s);
        cute::warpgroup_arrive();
        gemm_qk<Element, C::kTileM, C::kHeadDim, C::kTileN, C::kTileM>(
            make_descriptor(smem.k + warpgroup * 64 * kSlab, 0), make_descriptor(smem.q[at.stage], 0), s);
        cute::warpgroup_commit_batch();
        smem.dout_pipe.wait_full(at);
        fence_registers(ds);
        cute::warpgroup_arrive();
        gemm_qk<Element, C::kTileM, C::kHeadDimV, C::kTileN, C::kTileM>(
            make_descriptor(smem.v + warpgroup * 64 * kSlab, 0), make_descriptor(smem.dout[at.stage], 0), ds);
        cute::warpgroup_commit_batch();

        bool const masked = item.is_masked<C::kTileM, C::kTileN>(p.mask, first_query);
        float4 const* const lse = statistics_of_lane(smem.lse_log2[at.stage], lane);
        float4 const* const delta = statistics_of_lane(smem.delta[at.stage], lane);
        cute::warpgroup_wait<1>();
        fence_registers(s);
        // dS = P * (dP - delta), with the derivative of the cap as a factor; P takes the place of the scores.
        auto const for_each_score = [](float4 const* of_lane, auto const& change) {
            CUTE_UNROLL
            for (int i = 0; i < C::kTileM / 2; i += 8) {  // two accumulators of 8 columns
                float4 const of = of_lane[i / 8];
                float const x[4] = {of.x, of.y, of.z, of.w};
                CUTE_UNROLL
                for (int j = 0; j < 8; ++j) change(i + j, x[j / 4 * 2 + j % 2]);
            }
        };
        if (capped) {
            cap_scores(s, p.scale.softcap_scale);
            cute::warpgroup_wait<0>();
            fence_registers(ds);
            for_each_score(delta, [&](int i, float of_query) { ds[i] = (ds[i] - of_query) * (1.f - s[i] * s[i]); });
        }
        for_each_score(lse, [&](int i, float of_query) { s[i] = exp2_approx(fmaf(s[i], scale_log2, -of_query)); });
        if (masked) {
            CUTE_UNROLL
            for (int half = 0; half < 2; ++half) {
                int const key = item.first_key + warp * 16 + half * 8 + lane / 4;
                hide_queries(s, half, item.queries_of_key(p.mask, key), first_query + lane % 4 * 2);
            }
        }
        uint32_t pr[C::kTileM / 4];
        if constexpr (C::kTileM == 64) to_operand<Element>(s, pr);  // of larger tiles, registers are short
        cute::warpgroup_wait<0>();
        fence_registers(ds);
        if (capped) {
            CUTE_UNROLL
            for (int i = 0; i < C::kTileM / 2; ++i) ds[i] *= s[i];
        } else {
            for_each_score(delta, [&](int i, float of_query) { ds[i] = s[i] * (ds[i] - of_query); });
        }
        if constexpr (C::kTileM != 64) to_operand<Element>(s, pr);
        // dv += P^T dout, with the transposed P in registers.
        fence_registers(dv);
        cute::warpgroup_arrive();
        gemm_pv<Element, C::kTileM, C::kHeadDimV>(
            pr, make_descriptor(smem.dout[at.stage], C::kTileM * kSlabRowBytes), dv);
        cute::warpgroup_commit_batch();

        uint32_t dsr[C::kTileM / 4];
        to_operand<Element>(ds, dsr);
        Element* const exchange = smem.ds[index % 2];
        stage_operand<Element, C::kTileN, C::kTileM>(exchange, dsr, warp);
        cutlass::arch::fence_view_async_shared();
        cutlass::arch::NamedBarrier::sync(kAll, kExchange);
        // dk += dS^T q; dq = dS k.
        fence_registers(dk);
        cute::warpgroup_arrive();
        gemm_pv<Element, C::kTileM, C::kHeadDim>(
            dsr, make_descriptor(smem.q[at.stage], C::kTileM * kSlabRowBytes), dk);
        cute::warpgroup_commit_batch();
        fa3_u32* const turns = p.workspace.turns;
        auto const in_turn = [&](auto const& add) {
            if (turns == nullptr) return add();
            fa3_u32* const turn = turns + workspace_tile(p, item.batch, step.head, step.tile);
            int const seen = key_tiles_before<C::kTileN>(p.mask, first_query, item.queries.length, item.keys.length);
            if (threadIdx.x == 128) await_turn(turn, item.first_key / C::kTileN - seen);
            cutlass::arch::NamedBarrier::sync(kAll, kOrder);
            add();
            __threadfence();
            cutlass::arch::NamedBarrier::sync(kAll, kOrder);
            if (threadIdx.x == 128) atomicAdd(turn, 1u);
        };
        if (!C::kTakesTurns || warpgroup == index % C::kConsumers) {
            float dq[C::kColumns / 2];
            fence_registers(dq);
            cute::warpgroup_arrive();
            gemm_transposed<Element, C::kTileN, C::kColumns>(
                make_descriptor(exchange + row_group * C::kTileN * kSlab, C::kTileN * kSlabRowBytes),
                make_descriptor(smem.k + column_group * (C::kColumns / kSlab) * C::kTileN * kSlab, C::kTileN * kSlabRowBytes), dq);
            cute::warpgroup_commit_batch();
            cute::warpgroup_wait<0>();
            fence_registers(dv);
            fence_registers(dk);
            fence_registers(dq);
            smem.dout_pipe.release(at);
            smem.q_pipe.release(at);
            in_turn([&] {
                float* const sums = p.workspace.dq +
                                    workspace_tile(p, item.batch, step.head, step.tile) * (C::kTileM * C::kHeadDim) + lane * 4;
                CUTE_UNROLL
                for (int column = 0; column < C::kColumns; column += 8) {
                    int const to = accumulator_offset(row_group * 4 + warp % 4, (column_group * C::kColumns + column) / 8, C::kHeadDim);
                    add_to_global(sums + to, dq[column / 2], dq[column / 2 + 1], dq[column / 2 + 2], dq[column / 2 + 3]);
                }
            });
        } else {
            cute::warpgroup_wait<0>();
            fence_registers(dv);
            fence_registers(dk);
            smem.dout_pipe.release(at);
            smem.q_pipe.release(at);
            in_turn([] {});
        }
        at.advance();
    }

    // dk and dv are staged where k and v lay, which all warpgroups have read.
    cutlass::arch::NamedBarrier::sync(kAll, kExchange);
    CUTE_UNROLL
    for (float& x : dk) x *= p.softmax_scale;
    auto const store = [&](auto& sums, Element* tile, Operand const& gradient, int const& columns) {
        constexpr int kColumns = sizeof(sums) / sizeof(float) * 2;
        auto* const staging = reinterpret_cast<unsigned char*>(tile);
        stage_rows<Element, C::kTileN, 1, kColumns>(staging, reinterpret_cast<float(&)[1][kColumns / 2]>(sums), warp);
        auto* const first = sequence_rows<Element>(gradient, item.batch, p.sequences.cu_seqlens_k != nullptr, item.keys.start) +
                            item.head_kv * gradient.stride_head + item.first_key * gradient.stride_row;
        store_staged_rows<Element, C::kTileN, 16, kColumns>(
            staging, warp, 0, columns, [&](int row) { return item.first_key + row < item.keys.slot; },
            [&](int row) { return first + row * gradient.stride_row; });
    };
    store(dk, smem.k, p.dk, p.sizes.head_dim);
    store(dv, smem.v, p.dv, p.sizes.head_dim_v);
}

}  // namespace fa3
