// Attention forward for sm_90a: warp-specialised, persistent, TMA in and out. Design note: fwd_sm90.md.
//
// The variant table compiles this file once a row; the row arrives as FA3_* macros.
#include <cute/arch/copy_sm90.hpp>
#include <cutlass/arch/reg_reconfig.h>
#include <cute/numeric/integral_constant.hpp>
#include <cutlass/cutlass.h>

#include "fwd_params.h"
#include "mask.cuh"
#include "pipeline.cuh"
#include "scheduler.cuh"
#include "softmax.cuh"
#include "wgmma.cuh"

namespace fa3 {

struct Config {
    using Element = FA3_ELEMENT;
    static constexpr int kHeadDim = FA3_HEAD_DIM;
    static constexpr int kHeadDimV = FA3_HEAD_DIM_V;
    static constexpr int kTileM = FA3_TILE_M;
    static constexpr int kTileN = FA3_TILE_N;
    static constexpr bool kCausal = FA3_CAUSAL;
    static constexpr bool kDynamic = FA3_DYNAMIC;
    static constexpr int kStagesQ = FA3_STAGES_Q;
    static constexpr int kStages = FA3_STAGES;

    static constexpr int kConsumers = kTileM / 64;  // warpgroups, 64 query rows each
    static constexpr int kConsumerWarps = kConsumers * 4;
    static constexpr int kThreads = (kConsumers + 1) * 128;
    // 64 Ki registers a multiprocessor, one block on it; setmaxnreg takes multiples of 8.
    static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
    static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
    static_assert(kConsumers == 2 || kConsumers == 3, "two or three consumer warpgroups");
};

struct alignas(1024) SharedStorage {
    using C = Config;
    C::Element q[C::kStagesQ][C::kTileM * C::kHeadDim];
    C::Element k[C::kStages][C::kTileN * C::kHeadDim];
    C::Element v[C::kStages][C::kTileN * C::kHeadDimV];
    C::Element o[C::kConsumerWarps][16 * C::kHeadDimV];
    Pipeline<C::kStagesQ> q_pipe;
    Pipeline<C::kStages> k_pipe;
    Pipeline<C::kStages> v_pipe;
    Pipeline<2> tile_pipe;
    int tile[2];
};
static_assert(sizeof(SharedStorage) == FA3_SMEM_BYTES, "the variant row states another size");

// Blocks of keys that the tile must visit: [0, blocks).
template <class C>
CUTE_DEVICE int key_blocks(FwdParams const& p, int first_row) {
    int const last_row = min(p.seqlen_q, first_row + C::kTileM) - 1;
    int const keys = visible_keys<C::kCausal>(last_row, p.seqlen_q, p.seqlen_k);
    return keys <= 0 ? 0 : (keys + C::kTileN - 1) / C::kTileN;
}

// ---- producer: one thread that keeps the tensor copy engine busy -------------------------------------------------

template <class C>
CUTE_DEVICE void produce(FwdParams const& p, SharedStorage& smem) {
    using cute::TMA::CacheHintSm90;
    constexpr uint32_t kBytesQ = C::kTileM * C::kHeadDim * sizeof(typename C::Element);
    constexpr uint32_t kBytesK = C::kTileN * C::kHeadDim * sizeof(typename C::Element);
    constexpr uint32_t kBytesV = C::kTileN * C::kHeadDimV * sizeof(typename C::Element);
    Cursor<C::kStagesQ> at_q;
    Cursor<C::kStages> at_k, at_v;
    Cursor<2> at_tile;
    int const group = p.heads_q / p.heads_kv;

    int index = blockIdx.x;
    while (true) {
        smem.tile_pipe.wait_empty(at_tile);
        smem.tile[at_tile.stage] = index;
        smem.tile_pipe.publish(at_tile);
        at_tile.advance();
        if (index >= p.tiles) break;

        Tile const tile = tile_at(p, index);
        int const first_row = tile.m * C::kTileM;
        int const blocks = key_blocks<C>(p, first_row);
        int const head_kv = tile.head / group;
        auto load_k = [&](int block) {
            smem.k_pipe.wait_empty(at_k);
            smem.k_pipe.expect(at_k, kBytesK);
            load_rows<C::kHeadDim>(p.k, &smem.k_pipe.full[at_k.stage], CacheHintSm90::EVICT_LAST,
                                   smem.k[at_k.stage], C::kTileN, block * C::kTileN, head_kv, tile.batch);
            at_k.advance();
        };
        auto load_v = [&](int block) {
            smem.v_pipe.wait_empty(at_v);
            smem.v_pipe.expect(at_v, kBytesV);
            load_rows<C::kHeadDimV>(p.v, &smem.v_pipe.full[at_v.stage], CacheHintSm90::EVICT_LAST,
                                    smem.v[at_v.stage], C::kTileN, block * C::kTileN, head_kv, tile.batch);
            at_v.advance();
        };
        if (blocks > 0) {
            smem.q_pipe.wait_empty(at_q);
            smem.q_pipe.expect(at_q, kBytesQ);
            load_rows<C::kHeadDim>(p.q, &smem.q_pipe.full[at_q.stage], CacheHintSm90::EVICT_FIRST,
                                   smem.q[at_q.stage], C::kTileM, first_row, tile.head, tile.batch);
            at_q.advance();
            load_k(blocks - 1);
            for (int block = blocks - 2; block >= 0; --block) {
                load_k(block);
                load_v(block + 1);
            }
            load_v(0);
        }
        index = next_tile<C::kDynamic>(p, index);
    }
    retire<C::kDynamic>(p);
}

// ---- consumers ---------------------------------------------------------------------------------------------------

// A scale that is not positive would turn the row maximum into a minimum: give its sign (or its zero) to Q instead.
template <class C>
CUTE_DEVICE void fold_scale_sign(typename C::Element* q, float scale, int warpgroup) {
    uint32_t const keep = scale == 0.f ? 0u : 0xFFFFFFFFu;
    uint32_t const flip = scale < 0.f ? 0x80008000u : 0u;
    CUTE_UNROLL
    for (int slab = 0; slab < C::kHeadDim / kSlab; ++slab) {
        auto* words = reinterpret_cast<uint32_t*>(q + (slab * C::kTileM + warpgroup * 64) * kSlab);
        for (int i = threadIdx.x % 128; i < 64 * kSlab / 2; i += 128) words[i] = (words[i] & keep) ^ flip;
    }
    cutlass::arch::fence_view_async_shared();
    cutlass::arch::NamedBarrier::sync(128, static_cast<uint32_t>(warpgroup));
}

CUTE_DEVICE uint32_t pack(cutlass::half_t, float low, float high) {
    uint32_t out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}
CUTE_DEVICE uint32_t pack(cutlass::bfloat16_t, float low, float high) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// The accumulator layout of a product is the A-operand layout of the next, two floats to a register.
template <class Element, int Count>
CUTE_DEVICE void to_operand(float const (&s)[Count], uint32_t (&p)[Count / 2]) {
    CUTE_UNROLL
    for (int i = 0; i < Count / 2; ++i) p[i] = pack(Element{}, s[2 * i], s[2 * i + 1]);
}

// Writes this warp's 16 rows of O to its own staging buffer, swizzled, and sends them off.
template <class C>
CUTE_DEVICE void store_output(FwdParams const& p, typename C::Element* staging, float const (&o)[C::kHeadDimV / 2],
                              int row, Tile tile) {
    int const lane = cutlass::canonical_lane_idx();
    if (lane == 0) cute::tma_store_wait<0>();  // the previous tile's rows have left the buffer
    __syncwarp();
    int const matrix_row = (lane / 8 % 2) * 8 + lane % 8;  // stmatrix: lane l addresses row l % 8 of matrix l / 8
    CUTE_UNROLL
    for (int column = 0; column < C::kHeadDimV; column += 16) {
        int const chunk = column % kSlab / 8 + lane / 16;
        auto* target = reinterpret_cast<unsigned char*>(staging + column / kSlab * 16 * kSlab) +
                       matrix_row * kSlabRowBytes + ((chunk ^ (matrix_row % 8)) * 16);
        float const* r = &o[column / 2];
        typename C::Element const e{};
        cute::SM90_U32x4_STSM_N::copy(pack(e, r[0], r[1]), pack(e, r[2], r[3]), pack(e, r[4], r[5]),
                                      pack(e, r[6], r[7]), *reinterpret_cast<cute::uint128_t*>(target));
    }
    cutlass::arch::fence_view_async_shared();
    __syncwarp();
    if (lane == 0 && row < p.seqlen_q) {
        CUTE_UNROLL
        for (int slab = 0; slab < C::kHeadDimV / kSlab; ++slab) {
            cute::SM90_TMA_STORE_4D::copy(&p.out, staging + slab * 16 * kSlab, slab * kSlab, row, tile.head,
                                          tile.batch);
        }
        cute::tma_store_arrive();
    }
}

template <class C>
CUTE_DEVICE void consume(FwdParams const& p, SharedStorage& smem, int warpgroup) {
    using Element = typename C::Element;
    int const lane = cutlass::canonical_lane_idx();
    int const warp = warpgroup * 4 + threadIdx.x % 128 / 32;
    float const scale_log2 = p.scale_log2 == 0.f ? 1.f : fabsf(p.scale_log2);

    Cursor<C::kStagesQ> at_q;
    Cursor<C::kStages> at_k, at_v;
    Cursor<2> at_tile;
    while (true) {
        smem.tile_pipe.wait_full(at_tile);
        int const index = __shfl_sync(0xFFFFFFFF, smem.tile[at_tile.stage], 0);
        smem.tile_pipe.release(at_tile);
        at_tile.advance();
        if (index >= p.tiles) break;

        Tile const tile = tile_at(p, index);
        int const first_row = tile.m * C::kTileM;
        int const blocks = key_blocks<C>(p, first_row);
        int const row = first_row + warp * 16 + lane / 4;  // and row + 8
        int const limit[2] = {visible_keys<C::kCausal>(row, p.seqlen_q, p.seqlen_k),
                              visible_keys<C::kCausal>(row + 8, p.seqlen_q, p.seqlen_k)};
        OnlineSoftmax softmax(scale_log2);
        float o[C::kHeadDimV / 2];

        if (blocks > 0) {
            smem.q_pipe.wait_full(at_q);
            Element* const q_tile = smem.q[at_q.stage];
            if (p.scale_log2 <= 0.f) fold_scale_sign<C>(q_tile, p.scale_log2, warpgroup);
            uint64_t const q = make_descriptor(q_tile + warpgroup * 64 * kSlab, 0);

            float s[C::kTileN / 2];
            uint32_t pr[C::kTileN / 4];
            int block = blocks - 1;
            auto issue_qk = [&] {
                fence_registers(s);
                cute::warpgroup_arrive();
                gemm_qk<Element, C::kTileN, C::kHeadDim, C::kTileM>(q, make_descriptor(smem.k[at_k.stage], 0), s);
                cute::warpgroup_commit_batch();
            };
            auto issue_pv = [&] {
                fence_registers(pr);
                fence_registers(o);
                cute::warpgroup_arrive();
                gemm_pv<Element, C::kTileN, C::kHeadDimV>(
                    pr, make_descriptor(smem.v[at_v.stage], C::kTileN * kSlabRowBytes), o);
                cute::warpgroup_commit_batch();
            };

            // First block: the only one that can run past seqlen_k.
            smem.k_pipe.wait_full(at_k);
            issue_qk();
            cute::warpgroup_wait<0>();
            fence_registers(s);
            smem.k_pipe.release(at_k);
            at_k.advance();
            mask_scores(s, block * C::kTileN + lane % 4 * 2, limit);
            softmax.update_max(s);
            softmax.exponentiate(s);
            to_operand<Element>(s, pr);
            CUTE_UNROLL
            for (int i = 0; i < C::kHeadDimV / 2; ++i) o[i] = 0.f;

            // Scores of this block and output of the previous one go in together; the other warpgroups' products run
            // under this one's softmax. The exponentials stay behind the wait for the output on purpose: ahead of it
            // they compete with their own product, which measured 10 % slower.
            auto step = [&](auto masked) {
                smem.k_pipe.wait_full(at_k);
                issue_qk();
                smem.v_pipe.wait_full(at_v);
                issue_pv();
                cute::warpgroup_wait<1>();
                fence_registers(s);
                smem.k_pipe.release(at_k);
                at_k.advance();
                if constexpr (masked.value) mask_scores(s, block * C::kTileN + lane % 4 * 2, limit);
                bool const grown = softmax.update_max(s);
                cute::warpgroup_wait<0>();
                fence_registers(o);
                smem.v_pipe.release(at_v);
                at_v.advance();
                if (grown) softmax.rescale_output(o);
                softmax.exponentiate(s);
                to_operand<Element>(s, pr);
            };
            --block;
            if constexpr (C::kCausal) {
                // Blocks that end beyond what the warpgroup's first row may see need the mask.
                int const clear = max(
                    0, visible_keys<true>(first_row + warpgroup * 64, p.seqlen_q, p.seqlen_k) / C::kTileN);
                for (; block >= clear; --block) step(cutlass::platform::true_type{});
            }
            CUTE_NO_UNROLL
            for (; block >= 0; --block) step(cutlass::platform::false_type{});
            smem.q_pipe.release(at_q);
            at_q.advance();

            smem.v_pipe.wait_full(at_v);
            issue_pv();
            cute::warpgroup_wait<0>();
            fence_registers(o);
            smem.v_pipe.release(at_v);
            at_v.advance();
        } else {
            CUTE_UNROLL
            for (int i = 0; i < C::kHeadDimV / 2; ++i) o[i] = 0.f;
        }

        float lse[2];
        softmax.finish(o, lse);
        store_output<C>(p, smem.o[warp], o, first_row + warp * 16, tile);
        if (lane % 4 == 0) {
            float* const out = p.lse + (int64_t(tile.batch) * p.heads_q + tile.head) * p.seqlen_q;
            if (row < p.seqlen_q) out[row] = lse[0];
            if (row + 8 < p.seqlen_q) out[row + 8] = lse[1];
        }
    }
    if (lane == 0) cute::tma_store_wait<0>();
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::Config::kThreads, 1)
    FA3_KERNEL(const __grid_constant__ fa3::FwdParams p) {
    using C = fa3::Config;
    extern __shared__ unsigned char smem_bytes[];
    auto& smem = *reinterpret_cast<fa3::SharedStorage*>(smem_bytes);
    int const warpgroup = cutlass::canonical_warp_group_idx();
    if (threadIdx.x == 0) {
        smem.q_pipe.init(C::kConsumerWarps);
        smem.k_pipe.init(C::kConsumerWarps);
        smem.v_pipe.init(C::kConsumerWarps);
        smem.tile_pipe.init(C::kConsumerWarps);
        cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    if (warpgroup == 0) {
        cutlass::arch::warpgroup_reg_dealloc<C::kProducerRegisters>();
        if (threadIdx.x == 0) fa3::produce<C>(p, smem);
    } else {
        cutlass::arch::warpgroup_reg_alloc<C::kConsumerRegisters>();
        fa3::consume<C>(p, smem, warpgroup - 1);
    }
}
