// Attention forward for sm_90a: warp-specialised, persistent, TMA in and out. Design note: fwd_sm90.md.
//
// The variant table compiles this file once a row; the row arrives as FA3_* macros.
#include <cute/arch/copy_sm90.hpp>
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/cutlass.h>
#include <cutlass/platform/platform.h>

#include "arch/sm80/element.cuh"
#include "params/fwd.h"
#include "parts/mask.cuh"
#include "arch/sm90/pipeline.cuh"
#include "parts/scheduler.cuh"
#include "parts/steady_softmax.cuh"
#include "arch/sm90/wgmma.cuh"

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
    static constexpr int kSlabsO = FA3_SLABS_O;  // slabs of O that are staged at a time

    static constexpr int kSlabs = (kHeadDim + kSlab - 1) / kSlab;
    static constexpr int kSlabsV = (kHeadDimV + kSlab - 1) / kSlab;
    static constexpr int kConsumers = kTileM / 64;  // warpgroups, 64 query rows each
    static constexpr int kConsumerWarps = kConsumers * 4;
    static constexpr int kThreads = (kConsumers + 1) * 128;
    // 64 Ki registers a multiprocessor, one block on it; setmaxnreg takes multiples of 8.
    static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
    static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
    static_assert(kConsumers == 2 || kConsumers == 3, "two or three consumer warpgroups");
    static constexpr bool kInTurns = FA3_TURNS;  // warpgroups issue in turns, so that their exponentials spread out
    static constexpr bool kHalves = FA3_HALVES;  // a causal mask that leaves half of a block leaves half the work
    static_assert(kSlabsV % kSlabsO == 0, "O is staged in whole rounds");
    static_assert(!kHalves || kTileN == 128, "half a block is 64 keys");
};

// A tile on its way from the producer to the consumers, and their verdict on the way back.
struct Assignment {
    Work work;
    bool again;  // for the second time, since scores outran a row's reference in the first (`steady_softmax.cuh`)
    bool outrun[Config::kConsumerWarps];  // so they did, in a row of this warp
};

struct alignas(1024) SharedStorage {
    using C = Config;
    C::Element q[C::kStagesQ][C::kSlabs * C::kTileM * kSlab];
    C::Element k[C::kStages][C::kSlabs * C::kTileN * kSlab];
    C::Element v[C::kStages][C::kSlabsV * C::kTileN * kSlab];
    C::Element o[C::kSlabsO * C::kTileM * kSlab];
    Pipeline<C::kStagesQ> q_pipe;
    Pipeline<C::kStages> k_pipe;
    Pipeline<C::kStages> v_pipe;
    Pipeline<2> work_pipe;
    Assignment assignment[2];
};
static_assert(sizeof(SharedStorage) == FA3_SMEM_BYTES, "the variant row states another size");

// ---- producer: one warp that finds work and keeps the tensor copy engine busy --------------------------------------

// Loads one block of keys, or of values; the lanes share the boxes when pages cut the block into several.
template <class C, int Slabs>
CUTE_DEVICE void load_keys(FwdParams const& p, TensorMap const& map, Pipeline<C::kStages>& pipe,
                           Cursor<C::kStages> at, typename C::Element* smem, Work const& work, int block, int head,
                           int first_slab) {
    constexpr uint32_t kBytes = Slabs * C::kTileN * kSlabRowBytes;
    constexpr auto kHint = cute::TMA::CacheHintSm90::EVICT_LAST;
    int const lane = cutlass::canonical_lane_idx();
    int const row = block * C::kTileN;
    pipe.wait_empty(at);
    if (lane == 0) pipe.expect(at, kBytes);
    if (p.sequences.page_table == nullptr) {
        RowOrigin const origin = row_origin(p.storage.ragged_k, work.start_k, work.seqlen_k, work.batch);
        if (lane == 0) load_box<Slabs>(map, &pipe.full[at.stage], kHint, smem, C::kTileN, origin, row, head, first_slab);
        return;
    }
    __syncwarp();  // no box may land before its bytes are expected
    for (int first = lane * p.box_rows_kv; first < C::kTileN; first += 32 * p.box_rows_kv) {
        int const page_index = (row + first) / p.storage.page_size;
        int const page_row = page_index * p.storage.page_size;
        bool const used = row + first < work.seqlen_k;
        int const page = used ? p.sequences.page_table[int64_t(work.batch) * p.storage.page_table_stride + page_index] : 0;
        int const length = used ? min(p.storage.page_size, work.seqlen_k - page_row) : 0;
        load_box<Slabs>(map, &pipe.full[at.stage], kHint, smem + first * kSlab, C::kTileN,
                        row_origin(true, page * p.storage.rows_per_batch_k, length, page), used ? row + first - page_row : 0,
                        head, first_slab);
    }
}

// Waits for the verdict on the tile that lies in a slot, and takes it away: true when it must be computed again.
CUTE_DEVICE bool is_outrun(SharedStorage& smem, Cursor<2> slot) {
    smem.work_pipe.wait_empty(slot);
    int const lane = cutlass::canonical_lane_idx();
    bool* const outrun = smem.assignment[slot.stage].outrun;
    if (!__any_sync(0xFFFFFFFF, lane < Config::kConsumerWarps && outrun[lane])) return false;
    if (lane < Config::kConsumerWarps) outrun[lane] = false;
    return true;
}

// The next assignment, for `slot`: the tile that lay there, if it must be computed again, else tile `index`. Behind the
// last tile comes the one in the other slot, if it must.
template <class Finder>
CUTE_DEVICE Assignment next_assignment(FwdParams const& p, SharedStorage& smem, Cursor<2> slot, Finder& finder,
                                       int index) {
    if (is_outrun(smem, slot)) return {smem.assignment[slot.stage].work, true};
    Work const work = finder.find(p, index);
    if (work.head >= 0) return {work, false};
    slot.advance();
    if (is_outrun(smem, slot)) return {smem.assignment[slot.stage].work, true};
    return {work, false};
}

template <class C>
CUTE_DEVICE void produce(FwdParams const& p, SharedStorage& smem) {
    constexpr uint32_t kBytesQ = C::kSlabs * C::kTileM * kSlabRowBytes;
    int const lane = cutlass::canonical_lane_idx();
    int const group = p.sizes.heads_q / p.sizes.heads_kv;
    Cursor<C::kStagesQ> at_q;
    Cursor<C::kStages> at_k, at_v;
    Cursor<2> at_work;
    TileFinder<C::kMask, C::kTileM, C::kTileN> finder;

    int index = blockIdx.x;
    while (true) {
        Assignment const assignment = next_assignment(p, smem, at_work, finder, index);
        Work const& work = assignment.work;
        __syncwarp();  // what lies in the slot has been read
        if (lane == 0) {
            smem.assignment[at_work.stage] = assignment;
            smem.work_pipe.publish(at_work);
        }
        at_work.advance();
        if (work.head < 0) break;

        int const head_kv = work.head / group;
        auto load_k = [&](int block) {
            load_keys<C, C::kSlabs>(p, p.k_map, smem.k_pipe, at_k, smem.k[at_k.stage], work, block, head_kv, 0);
            at_k.advance();
        };
        auto load_v = [&](int block) {
            load_keys<C, C::kSlabsV>(p, p.v_map, smem.v_pipe, at_v, smem.v[at_v.stage], work, block, head_kv,
                                     work.slice * C::kSlabsV);
            at_v.advance();
        };
        smem.q_pipe.wait_empty(at_q);
        if (lane == 0) {
            smem.q_pipe.expect(at_q, kBytesQ);
            load_box<C::kSlabs>(p.q_map, &smem.q_pipe.full[at_q.stage], cute::TMA::CacheHintSm90::EVICT_FIRST,
                                smem.q[at_q.stage], C::kTileM,
                                row_origin(p.storage.ragged_q, work.start_q, work.seqlen_q, work.batch),
                                work.first_row >> p.tiles.pack_shift, work.head);
        }
        at_q.advance();
        Ticket ticket;
        load_k(work.block_end - 1);
        CUTE_NO_UNROLL
        for (int block = work.block_end - 2; block >= work.block_begin; --block) {
            load_k(block);
            if (block == work.block_begin && !assignment.again) ticket.take(p);
            load_v(block + 1);
        }
        if (work.block_end - 1 == work.block_begin && !assignment.again) ticket.take(p);
        load_v(work.block_begin);
        if (!assignment.again) index = ticket.read();
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

// What a row of a tile stands for. Heads share a tile in powers of two only. With a division here the assembler no
// longer takes the loops for uniform: see store_if.
CUTE_DEVICE int position_of(FwdParams const& p, int tile_row) { return tile_row >> p.tiles.pack_shift; }
CUTE_DEVICE int head_of(FwdParams const& p, Work const& work, int tile_row) {
    return work.head + (tile_row & (p.tiles.pack_gqa - 1));
}

// Writes this warp's 16 rows of O to the staging tile, swizzled, and sends them off, as many slabs at a time as fit.
template <class C>
CUTE_DEVICE void store_output(FwdParams const& p, typename C::Element* staging, float const (&o)[C::kHeadDimV / 2],
                              int warp, Work const& work, bool valid) {
    int const lane = cutlass::canonical_lane_idx();
    int const matrix_row = (lane / 8 % 2) * 8 + lane % 8;  // stmatrix: lane l addresses row l % 8 of matrix l / 8
    auto* const rows = staging + warp * 16 * kSlab;
    int const row = work.first_row + warp * 16;
    int const position = position_of(p, row);
    int const head = head_of(p, work, row);
    RowOrigin const at = row_origin(p.storage.ragged_q, work.start_q, work.seqlen_q, work.batch);
    CUTE_UNROLL
    for (int first = 0; first < C::kSlabsV; first += C::kSlabsO) {
        cute::tma_store_wait<0>();  // what this lane sent before has left the buffer; a branch here: see store_if
        __syncwarp();
        constexpr int kRoundColumns = C::kSlabsO * kSlab;
        CUTE_UNROLL
        for (int column = first * kSlab; column < min(first * kSlab + kRoundColumns, C::kHeadDimV); column += 16) {
            int const chunk = column % kSlab / 8 + lane / 16;
            auto* target = reinterpret_cast<unsigned char*>(rows + (column / kSlab - first) * C::kTileM * kSlab) +
                           matrix_row * kSlabRowBytes + ((chunk ^ (matrix_row % 8)) * 16);
            float const* r = &o[column / 2];
            typename C::Element const e{};
            cute::SM90_U32x4_STSM_N::copy(pack(e, r[0], r[1]), pack(e, r[2], r[3]), pack(e, r[4], r[5]),
                                          pack(e, r[6], r[7]), *reinterpret_cast<cute::uint128_t*>(target));
        }
        cutlass::arch::fence_view_async_shared();
        __syncwarp();
        if (lane == 0 && valid && row < work.seqlen_q * p.tiles.pack_gqa) {
            CUTE_UNROLL
            for (int slab = 0; slab < C::kSlabsO; ++slab) {
                cute::SM90_TMA_STORE_5D::copy(&p.out_map, rows + slab * C::kTileM * kSlab,
                                              (work.slice * C::kSlabsV + first + slab) * kSlab, head,
                                              at.first + position, at.origin, at.batch);
            }
            cute::tma_store_arrive();
        }
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

CUTE_DEVICE bool any_lane(bool condition) { return __any_sync(0xFFFFFFFF, condition); }

CUTE_DEVICE void store_shared_if(bool condition, bool* to) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.shared.u8 [%1], %0; }" ::"r"(uint32_t(condition)),
                 "r"(cute::cast_smem_ptr_to_uint(to))
                 : "memory");
}

template <class C>
CUTE_DEVICE void consume(FwdParams const& p, SharedStorage& smem, int warpgroup) {
    using Element = typename C::Element;
    using cutlass::platform::false_type;
    using cutlass::platform::true_type;
    constexpr bool kCausal = C::kMask == Mask::kCausal;
    constexpr bool kHalves = kCausal && C::kHalves;
    // A P that is high does not fit into fp16. bf16 has the exponents of fp32: there the reference may be raised a step
    // later, while the warpgroup waits for its scores anyway.
    constexpr bool kNarrow = cutlass::platform::is_same<Element, Half>::value;
    int const lane = cutlass::canonical_lane_idx();
    int const warp = warpgroup * 4 + threadIdx.x % 128 / 32;
    float const scale_log2 = p.scale.scale_log2 == 0.f ? 1.f : fabsf(p.scale.scale_log2);
    auto wait_turn = [&] {
        if constexpr (C::kInTurns) {
            cutlass::arch::NamedBarrier::sync(256, static_cast<uint32_t>(C::kConsumers + warpgroup));
        }
    };
    auto pass_turn = [&] {
        if constexpr (C::kInTurns) {
            uint32_t const next = (warpgroup + 1) % C::kConsumers;
            cutlass::arch::NamedBarrier::arrive(256, C::kConsumers + next);
        }
    };
    if (warpgroup == C::kConsumers - 1) pass_turn();  // the first turn is that of warpgroup 0

    Cursor<C::kStagesQ> at_q;
    Cursor<C::kStages> at_k, at_v;
    Cursor<2> at_work;
    while (true) {
        smem.work_pipe.wait_full(at_work);
        Assignment& assignment = smem.assignment[at_work.stage];
        Work const work = assignment.work;
        bool const again = assignment.again;
        if (work.head < 0) break;

        int const row = work.first_row + warp * 16 + lane / 4;  // and row + 8
        int const first_row = work.first_row + warpgroup * 64;  // of the warpgroup
        auto visible_to = [&](int tile_row) {
            return visible_keys<C::kMask>(p, position_of(p, tile_row), work.seqlen_q, work.seqlen_k);
        };
        KeyRange const visible[2] = {visible_to(row), visible_to(row + 8)};
        SteadySoftmax softmax(scale_log2);
        float s[C::kTileN / 2];
        uint32_t pr[C::kTileN / 4];
        float o[C::kHeadDimV / 2];

        smem.q_pipe.wait_full(at_q);
        if (p.scale.scale_log2 <= 0.f) fold_scale_sign<C>(smem.q[at_q.stage], p.scale.scale_log2, warpgroup);
        auto issue_qk = [&](auto& scores) {
            constexpr int kKeys = sizeof(scores) / sizeof(float) * 2;
            fence_registers(scores);
            cute::warpgroup_arrive();
            gemm_qk<Element, kKeys, C::kHeadDim, C::kTileM, C::kTileN>(
                make_descriptor(smem.q[at_q.stage] + warpgroup * 64 * kSlab, 0),
                make_descriptor(smem.k[at_k.stage], 0), scores);
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
        auto release_k = [&] {
            smem.k_pipe.release(at_k);
            at_k.advance();
        };
        auto release_v = [&] {
            smem.v_pipe.release(at_v);
            at_v.advance();
        };
        // Only the variants of the general mask carry the softcap: the branch alone costs the others 2 %.
        auto cap_if_asked = [&](auto& scores) {
            if constexpr (C::kMask == Mask::kLocal) {
                if (p.scale.softcap_scale != 0.f) cap_scores(scores, p.scale.softcap_scale);
            }
        };
        int block = work.block_end - 1;
        // Every row of the warpgroup sees the first key of this block and of those behind it.
        int clear_begin = work.block_begin;
        if constexpr (C::kMask == Mask::kLocal) {
            clear_begin = max(clear_begin, (visible_to(first_row + 63).begin + C::kTileN - 1) / C::kTileN);
        }
        // Most blocks that need a mask need one side of it.
        auto mask_ends = [&](auto& scores) {
            hide_ends(scores, block * C::kTileN + lane % 4 * 2, visible);
        };
        auto mask_begins = [&](auto& scores) {
            if constexpr (C::kMask == Mask::kLocal) {
                if (block < clear_begin) hide_begins(scores, block * C::kTileN + lane % 4 * 2, visible);
            }
        };

        // Under a causal mask the tile's last blocks may be hidden from all rows of this warpgroup.
        [[maybe_unused]] bool half = false;  // of the first block is all that they see
        if constexpr (kCausal) {
            int const end = visible_to(first_row + 63).end;
            int const own_end = max(work.block_begin + 1, (end + C::kTileN - 1) / C::kTileN);
            CUTE_NO_UNROLL
            for (; block >= own_end; --block) {
                smem.k_pipe.wait_full(at_k);
                release_k();
                wait_turn();
                pass_turn();
                smem.v_pipe.wait_full(at_v);
                release_v();
            }
            half = end <= block * C::kTileN + C::kTileN / 2;
        }

        // First block: the only one that can run past the last key.
        auto first_block = [&](auto& scores, auto& operand) {
            smem.k_pipe.wait_full(at_k);
            issue_qk(scores);
            cute::warpgroup_wait<0>();
            fence_registers(scores);
            release_k();
            cap_if_asked(scores);
            mask_ends(scores);
            mask_begins(scores);
            softmax.adopt(scores);
            softmax.exponentiate(scores);
            to_operand<Element>(scores, operand);
        };
        if constexpr (kHalves) {
            if (half) {
                first_block(reinterpret_cast<float(&)[32]>(s), reinterpret_cast<uint32_t(&)[16]>(pr));
                CUTE_UNROLL
                for (int i = 16; i < 32; ++i) pr[i] = 0;
            } else {
                first_block(s, pr);
            }
        } else {
            first_block(s, pr);
        }
        CUTE_UNROLL
        for (int i = 0; i < C::kHeadDimV / 2; ++i) o[i] = 0.f;
        --block;

        bool* const outrun = &assignment.outrun[warp];
        auto judge = [&](bool late) { store_shared_if(late && !again, outrun); };
        // Raises the references of rows whose last block was high; `operands`: what holds it.
        auto raise_references = [&](auto&... operands) {
            float factor[2];
            judge(softmax.raise(factor));
            (rescale_rows(operands, factor), ...);
        };
        // What few steps need: a higher reference for P that is in O already, or another one for these scores.
        auto mend_references = [&](bool bare) {
            if constexpr (!kNarrow) raise_references(o);
            judge(bare);
            if (again) {
                float factor[2];
                softmax.follow(s, factor);
                rescale_rows(o, factor);
            }
        };

        // Scores of this block and output of the previous one go in together; the other warpgroups' products run
        // under this one's softmax. The exponentials stay behind the wait for the output on purpose: ahead of it
        // they compete with their own product, which measured 3 to 7 % slower.
        bool k_ready, v_ready;
        auto ask_ready = [&] {  // ahead of the wait, so that the answer's latency passes under the conversion
            k_ready = smem.k_pipe.is_full(at_k);
            v_ready = smem.v_pipe.is_full(at_v);
        };
        ask_ready();
        auto step = [&](auto ends, auto begins) {
            constexpr bool kMasked = ends.value || begins.value;
            constexpr bool kScoresAreFinal = !kMasked && C::kMask != Mask::kLocal;  // as the product leaves them
            if (!k_ready) smem.k_pipe.wait_full(at_k);
            wait_turn();
            issue_qk(s);
            if (!v_ready) smem.v_pipe.wait_full(at_v);
            issue_pv();
            pass_turn();
            // A row without a reference finds one where blocks are masked; scores of -inf may have left it without.
            bool const bare = !kMasked && softmax.is_bare();
            bool const mend = any_lane((!kNarrow && softmax.is_high()) || bare || again);
            if (kScoresAreFinal && mend) {
                cute::warpgroup_wait<0>();
                fence_registers(s);
                fence_registers(o);
                mend_references(bare);
            }
            cute::warpgroup_wait<1>();
            fence_registers(s);
            release_k();
            cap_if_asked(s);
            if constexpr (ends.value) mask_ends(s);
            if constexpr (begins.value) mask_begins(s);
            if constexpr (kMasked) softmax.adopt(s);
            cute::warpgroup_wait<0>();
            fence_registers(o);
            release_v();
            if (!kScoresAreFinal && mend) mend_references(bare);
            softmax.exponentiate(s);
            if constexpr (kNarrow) {
                if (any_lane(softmax.is_high())) raise_references(s, o);
            }
            ask_ready();
            to_operand<Element>(s, pr);
        };
        if constexpr (C::kMask != Mask::kFull) {
            // The last block that a row sees is masked for it, even if it sees all of it: there it gets its reference.
            int const clear_end = max(0, visible_to(first_row).end - 1) / C::kTileN;
            for (; block >= max(work.block_begin, clear_end); --block) step(true_type{}, true_type{});
        }
        CUTE_NO_UNROLL
        for (; block >= clear_begin; --block) step(false_type{}, false_type{});
        if constexpr (C::kMask == Mask::kLocal) {
            for (; block >= work.block_begin; --block) step(false_type{}, true_type{});
        }
        smem.q_pipe.release(at_q);
        at_q.advance();

        smem.v_pipe.wait_full(at_v);
        issue_pv();
        cute::warpgroup_wait<0>();
        fence_registers(o);
        release_v();
        float factor[2] = {1.f, 1.f};
        if constexpr (!kNarrow) judge(softmax.raise(factor));  // as if another block came: so the LSE keeps its bits
        __syncwarp();
        bool const valid = !*outrun;  // else it must not be in memory before what comes: nothing orders the two stores

        constexpr float kLog2E = 1.442695040888963f;
        float sinks_log2[2], lse[2];
        CUTE_UNROLL
        for (int i = 0; i < 2; ++i) {
            sinks_log2[i] = p.sink ? p.sink[head_of(p, work, row + 8 * i)] * kLog2E : -infinity();
        }
        softmax.finish(sinks_log2, factor, o, lse);
        smem.work_pipe.release_lane(at_work);
        at_work.advance();
        store_output<C>(p, smem.o, o, warp, work, valid);
        float* const lse_out = p.lse.data + (p.sequences.cu_seqlens_q ? int64_t(work.start_q) : work.batch * p.lse.stride_batch);
        CUTE_UNROLL
        for (int i = 0; i < 2; ++i) {
            int const position = position_of(p, row + 8 * i);
            int const head = head_of(p, work, row + 8 * i);
            store_if(lane % 4 == 0 && work.slice == 0 && position < work.seqlen_q,
                     lse_out + head * p.lse.stride_head + position, lse[i]);
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
        smem.work_pipe.init(C::kConsumers * 128);
        for (auto& assignment : smem.assignment) assignment = {};
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
