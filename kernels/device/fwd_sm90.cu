// Attention forward for sm_90a: warp-specialised, persistent, TMA in and out. Design note: fwd_sm90.md.
//
// The variant table compiles this file once a row; the row arrives as FA3_* macros.
#include <cute/arch/copy_sm90.hpp>
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/cutlass.h>
#include <cutlass/platform/platform.h>

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
    static constexpr Mask kMask = Mask::FA3_MASK;
    static constexpr int kStagesQ = FA3_STAGES_Q;
    static constexpr int kStages = FA3_STAGES;
    static constexpr bool kOutputInQ = FA3_OUTPUT_IN_Q;  // O is staged where Q lay, for want of room

    static constexpr int kSlabs = (kHeadDim + kSlab - 1) / kSlab;
    static constexpr int kSlabsV = (kHeadDimV + kSlab - 1) / kSlab;
    static constexpr int kConsumers = kTileM / 64;  // warpgroups, 64 query rows each
    static constexpr int kConsumerWarps = kConsumers * 4;
    static constexpr int kThreads = (kConsumers + 1) * 128;
    // 64 Ki registers a multiprocessor, one block on it; setmaxnreg takes multiples of 8.
    static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
    static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
    static_assert(kConsumers == 2 || kConsumers == 3, "two or three consumer warpgroups");
    static_assert(!kOutputInQ || (kStagesQ == 1 && kSlabsV <= kSlabs), "O must fit where Q lay");
};

struct alignas(1024) SharedStorage {
    using C = Config;
    C::Element q[C::kStagesQ][C::kSlabs * C::kTileM * kSlab];
    C::Element k[C::kStages][C::kSlabs * C::kTileN * kSlab];
    C::Element v[C::kStages][C::kSlabsV * C::kTileN * kSlab];
    C::Element o[C::kOutputInQ ? 1 : C::kSlabsV * C::kTileM * kSlab];
    Pipeline<C::kStagesQ> q_pipe;
    Pipeline<C::kStages> k_pipe;
    Pipeline<C::kStages> v_pipe;
    Pipeline<2> work_pipe;
    Work work[2];
};
static_assert(sizeof(SharedStorage) == FA3_SMEM_BYTES, "the variant row states another size");

// ---- producer: one warp that finds work and keeps the tensor copy engine busy --------------------------------------

// Loads one block of keys, or of values; the lanes share the boxes when pages cut the block into several.
template <class C, int Slabs>
CUTE_DEVICE void load_keys(FwdParams const& p, TensorMap const& map, Pipeline<C::kStages>& pipe,
                           Cursor<C::kStages> at, typename C::Element* smem, Work const& work, int block, int head) {
    constexpr uint32_t kBytes = Slabs * C::kTileN * kSlabRowBytes;
    constexpr auto kHint = cute::TMA::CacheHintSm90::EVICT_LAST;
    int const lane = cutlass::canonical_lane_idx();
    int const row = block * C::kTileN;
    pipe.wait_empty(at);
    if (lane == 0) pipe.expect(at, kBytes);
    if (p.page_table == nullptr) {
        RowOrigin const origin = row_origin(p.ragged_k, work.start_k, work.seqlen_k, work.batch);
        if (lane == 0) load_box<Slabs>(map, &pipe.full[at.stage], kHint, smem, C::kTileN, origin, row, head);
        return;
    }
    __syncwarp();  // no box may land before its bytes are expected
    for (int first = lane * p.box_rows_kv; first < C::kTileN; first += 32 * p.box_rows_kv) {
        int const page_index = (row + first) / p.page_size;
        int const page_row = page_index * p.page_size;
        bool const used = row + first < work.seqlen_k;
        int const page = used ? p.page_table[int64_t(work.batch) * p.page_table_stride + page_index] : 0;
        int const length = used ? min(p.page_size, work.seqlen_k - page_row) : 0;
        load_box<Slabs>(map, &pipe.full[at.stage], kHint, smem + first * kSlab, C::kTileN,
                        row_origin(true, page * p.rows_per_batch_k, length, page), used ? row + first - page_row : 0,
                        head);
    }
}

template <class C>
CUTE_DEVICE void produce(FwdParams const& p, SharedStorage& smem) {
    constexpr uint32_t kBytesQ = C::kSlabs * C::kTileM * kSlabRowBytes;
    int const lane = cutlass::canonical_lane_idx();
    int const group = p.heads_q / p.heads_kv;
    Cursor<C::kStagesQ> at_q;
    Cursor<C::kStages> at_k, at_v;
    Cursor<2> at_work;
    TileFinder<C::kMask, C::kTileM, C::kTileN> finder;

    int index = blockIdx.x;
    while (true) {
        Work const work = finder.find(p, index);
        smem.work_pipe.wait_empty(at_work);
        if (lane == 0) {
            smem.work[at_work.stage] = work;
            smem.work_pipe.publish(at_work);
        }
        at_work.advance();
        if (work.head < 0) break;

        int const head_kv = work.head / group;
        auto load_k = [&](int block) {
            load_keys<C, C::kSlabs>(p, p.k_map, smem.k_pipe, at_k, smem.k[at_k.stage], work, block, head_kv);
            at_k.advance();
        };
        auto load_v = [&](int block) {
            load_keys<C, C::kSlabsV>(p, p.v_map, smem.v_pipe, at_v, smem.v[at_v.stage], work, block, head_kv);
            at_v.advance();
        };
        smem.q_pipe.wait_empty(at_q);
        if (lane == 0) {
            smem.q_pipe.expect(at_q, kBytesQ);
            load_box<C::kSlabs>(p.q_map, &smem.q_pipe.full[at_q.stage], cute::TMA::CacheHintSm90::EVICT_FIRST,
                                smem.q[at_q.stage], C::kTileM,
                                row_origin(p.ragged_q, work.start_q, work.seqlen_q, work.batch),
                                work.first_row, work.head);
        }
        at_q.advance();
        load_k(work.block_end - 1);
        CUTE_NO_UNROLL
        for (int block = work.block_end - 2; block >= work.block_begin; --block) {
            load_k(block);
            load_v(block + 1);
        }
        load_v(work.block_begin);
        index = next_tile(p);
    }
    retire(p);
}

// ---- consumers ---------------------------------------------------------------------------------------------------

// A scale that is not positive would turn the row maximum into a minimum: give its sign (or its zero) to Q instead.
template <class C>
CUTE_DEVICE void fold_scale_sign(typename C::Element* q, float scale, int warpgroup) {
    uint32_t const keep = scale == 0.f ? 0u : 0xFFFFFFFFu;
    uint32_t const flip = scale < 0.f ? 0x80008000u : 0u;
    CUTE_UNROLL
    for (int slab = 0; slab < C::kSlabs; ++slab) {
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

// Writes this warp's 16 rows of O to the staging tile, swizzled, and sends them off. `row`: the first of them.
template <class C>
CUTE_DEVICE void store_output(FwdParams const& p, typename C::Element* staging, float const (&o)[C::kHeadDimV / 2],
                              int warp, Work const& work) {
    int const lane = cutlass::canonical_lane_idx();
    int const matrix_row = (lane / 8 % 2) * 8 + lane % 8;  // stmatrix: lane l addresses row l % 8 of matrix l / 8
    auto* const rows = staging + warp * 16 * kSlab;
    CUTE_UNROLL
    for (int column = 0; column < C::kHeadDimV; column += 16) {
        int const chunk = column % kSlab / 8 + lane / 16;
        auto* target = reinterpret_cast<unsigned char*>(rows + column / kSlab * C::kTileM * kSlab) +
                       matrix_row * kSlabRowBytes + ((chunk ^ (matrix_row % 8)) * 16);
        float const* r = &o[column / 2];
        typename C::Element const e{};
        cute::SM90_U32x4_STSM_N::copy(pack(e, r[0], r[1]), pack(e, r[2], r[3]), pack(e, r[4], r[5]),
                                      pack(e, r[6], r[7]), *reinterpret_cast<cute::uint128_t*>(target));
    }
    cutlass::arch::fence_view_async_shared();
    __syncwarp();
    int const row = work.first_row + warp * 16;
    if (lane == 0 && row < work.seqlen_q) {
        RowOrigin const at = row_origin(p.ragged_q, work.start_q, work.seqlen_q, work.batch);
        CUTE_UNROLL
        for (int slab = 0; slab < C::kSlabsV; ++slab) {
            cute::SM90_TMA_STORE_5D::copy(&p.out_map, rows + slab * C::kTileM * kSlab, slab * kSlab, at.first + row,
                                          work.head, at.origin, at.batch);
        }
        cute::tma_store_arrive();
    }
}

// A store under a predicate, not behind a branch. With a branch on a lane's own row here, the assembler takes the
// loops around it for divergent, keeps the stages in ordinary registers and moves every matrix descriptor to the
// uniform ones in front of its product: 3 % slower.
CUTE_DEVICE void store_if(bool condition, float* to, float value) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.global.f32 [%1], %2; }" ::"r"(uint32_t(condition)),
                 "l"(to), "f"(value)
                 : "memory");
}

template <class C>
CUTE_DEVICE void consume(FwdParams const& p, SharedStorage& smem, int warpgroup) {
    using Element = typename C::Element;
    int const lane = cutlass::canonical_lane_idx();
    int const warp = warpgroup * 4 + threadIdx.x % 128 / 32;
    float const scale_log2 = p.scale_log2 == 0.f ? 1.f : fabsf(p.scale_log2);

    Cursor<C::kStagesQ> at_q;
    Cursor<C::kStages> at_k, at_v;
    Cursor<2> at_work;
    while (true) {
        smem.work_pipe.wait_full(at_work);
        Work const work = smem.work[at_work.stage];
        __syncwarp();
        smem.work_pipe.release(at_work);
        at_work.advance();
        if (work.head < 0) break;

        int const row = work.first_row + warp * 16 + lane / 4;  // and row + 8
        KeyRange const visible[2] = {visible_keys<C::kMask>(p, row, work.seqlen_q, work.seqlen_k),
                                     visible_keys<C::kMask>(p, row + 8, work.seqlen_q, work.seqlen_k)};
        OnlineSoftmax softmax(scale_log2);
        float s[C::kTileN / 2];
        uint32_t pr[C::kTileN / 4];
        float o[C::kHeadDimV / 2];

        smem.q_pipe.wait_full(at_q);
        Element* const q_tile = smem.q[at_q.stage];
        if (p.scale_log2 <= 0.f) fold_scale_sign<C>(q_tile, p.scale_log2, warpgroup);
        // Only the variants of the general mask carry the softcap: the branch alone costs the others 2 %.
        auto cap_if_asked = [&](float (&s)[C::kTileN / 2]) {
            if constexpr (C::kMask == Mask::kLocal) {
                if (p.softcap_scale != 0.f) cap_scores(s, p.softcap_scale);
            }
        };
        auto issue_qk = [&] {
            fence_registers(s);
            cute::warpgroup_arrive();
            gemm_qk<Element, C::kTileN, C::kHeadDim, C::kTileM>(
                make_descriptor(smem.q[at_q.stage] + warpgroup * 64 * kSlab, 0),
                make_descriptor(smem.k[at_k.stage], 0), s);
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

        // First block: the only one that can run past the last key.
        int block = work.block_end - 1;
        smem.k_pipe.wait_full(at_k);
        issue_qk();
        cute::warpgroup_wait<0>();
        fence_registers(s);
        smem.k_pipe.release(at_k);
        at_k.advance();
        cap_if_asked(s);
        mask_scores<C::kMask>(s, block * C::kTileN + lane % 4 * 2, visible);
        softmax.update_max(s);
        softmax.exponentiate(s);
        to_operand<Element>(s, pr);
        CUTE_UNROLL
        for (int i = 0; i < C::kHeadDimV / 2; ++i) o[i] = 0.f;

        // Scores of this block and output of the previous one go in together; the other warpgroups' products run
        // under this one's softmax. The exponentials stay behind the wait for the output on purpose: ahead of it
        // they compete with their own product, which measured 8 % slower.
        auto step = [&](auto masked) {
            smem.k_pipe.wait_full(at_k);
            issue_qk();
            smem.v_pipe.wait_full(at_v);
            issue_pv();
            cute::warpgroup_wait<1>();
            fence_registers(s);
            smem.k_pipe.release(at_k);
            at_k.advance();
            cap_if_asked(s);
            if constexpr (masked.value) mask_scores<C::kMask>(s, block * C::kTileN + lane % 4 * 2, visible);
            bool const grown = softmax.update_max(s);
            cute::warpgroup_wait<0>();
            fence_registers(o);
            smem.v_pipe.release(at_v);
            at_v.advance();
            if (grown) softmax.rescale_output(o);
            softmax.exponentiate(s);
            to_operand<Element>(s, pr);
        };
        using cutlass::platform::false_type;
        using cutlass::platform::true_type;
        --block;
        int clear_begin = work.block_begin;  // blocks that every row of the warpgroup sees in full
        if constexpr (C::kMask != Mask::kFull) {
            int const first = work.first_row + warpgroup * 64;
            int const clear_end =
                max(0, visible_keys<C::kMask>(p, first, work.seqlen_q, work.seqlen_k).end) / C::kTileN;
            for (; block >= max(work.block_begin, clear_end); --block) step(true_type{});
            if constexpr (C::kMask == Mask::kLocal) {
                int const begin = visible_keys<C::kMask>(p, first + 63, work.seqlen_q, work.seqlen_k).begin;
                clear_begin = max(clear_begin, (begin + C::kTileN - 1) / C::kTileN);
            }
        }
        CUTE_NO_UNROLL
        for (; block >= clear_begin; --block) step(false_type{});
        if constexpr (C::kMask == Mask::kLocal) {
            for (; block >= work.block_begin; --block) step(true_type{});
        }
        if constexpr (!C::kOutputInQ) {
            smem.q_pipe.release(at_q);
            at_q.advance();
        }

        smem.v_pipe.wait_full(at_v);
        issue_pv();
        cute::warpgroup_wait<0>();
        fence_registers(o);
        smem.v_pipe.release(at_v);
        at_v.advance();

        constexpr float kLog2E = 1.442695040888963f;
        float lse[2];
        softmax.finish(p.sink ? p.sink[work.head] * kLog2E : -infinity(), o, lse);
        if constexpr (C::kOutputInQ) {
            // Every warp of the warpgroup has read its share of Q; the rows of other warpgroups lie elsewhere.
            cutlass::arch::NamedBarrier::sync(128, static_cast<uint32_t>(warpgroup));
            store_output<C>(p, q_tile, o, warp, work);
            if (lane == 0) cute::tma_store_wait<0>();
            __syncwarp();
            smem.q_pipe.release(at_q);
            at_q.advance();
        } else {
            if (lane == 0) cute::tma_store_wait<0>();  // the previous tile's rows have left the buffer
            __syncwarp();
            store_output<C>(p, smem.o, o, warp, work);
        }
        float* const lse_out = p.lse + work.head * p.lse_stride_head +
                               (p.cu_seqlens_q ? int64_t(work.start_q) : work.batch * p.lse_stride_batch) + row;
        store_if(lane % 4 == 0 && row < work.seqlen_q, lse_out, lse[0]);
        store_if(lane % 4 == 0 && row + 8 < work.seqlen_q, lse_out + 8, lse[1]);
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
        smem.work_pipe.init(C::kConsumerWarps);
        cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    if (warpgroup == 0) {
        cutlass::arch::warpgroup_reg_dealloc<C::kProducerRegisters>();
        if (threadIdx.x < 32) fa3::produce<C>(p, smem);
    } else {
        cutlass::arch::warpgroup_reg_alloc<C::kConsumerRegisters>();
        fa3::consume<C>(p, smem, warpgroup - 1);
    }
}
