// Attention forward for compute capability 8.0 and newer: cp.async loads, mma.sync, one thread block a tile. Design
// note: fwd_portable.md.
//
// Compiled once per variant, whose row arrives as FA3_* macros. One kernel serves every mask.
#include <cutlass/cutlass.h>

#include "arch/sm80/mma_sync.cuh"
#include "params/fwd.h"
#include "parts/load_cp_async.cuh"
#include "parts/mask.cuh"
#include "parts/online_softmax.cuh"
#include "parts/query_row.cuh"
#include "parts/scale_sign.cuh"
#include "parts/softcap.cuh"
#include "parts/store_chunks.cuh"
#include "parts/tile_order.cuh"

namespace fa3 {

struct Config {
    using Element = FA3_ELEMENT;
    static constexpr int kHeadDim = FA3_HEAD_DIM;
    static constexpr int kHeadDimV = FA3_HEAD_DIM_V;  // of one slice
    static constexpr int kTileM = FA3_TILE_M;
    static constexpr int kTileN = FA3_TILE_N;
    static constexpr int kWarps = FA3_WARPS;
    static constexpr int kStages = FA3_STAGES;  // buffers for K, and as many for V
    static constexpr bool kQInRegisters = FA3_Q_IN_REGISTERS;
    static constexpr MaskClass kMask = MaskClass::kLocal;  // absent parameters reduce it to the other masks

    static constexpr int kThreads = kWarps * 32;
    static constexpr int kWarpRows = kTileM / kWarps;
    static constexpr int kRowTiles = kWarpRows / kMmaRows;  // share every fragment of K and V
    static constexpr int kSlabs = slab_count<Element>(kHeadDim);
    static constexpr int kSlabsV = slab_count<Element>(kHeadDimV);
    static constexpr uint32_t kBytesQ = kSlabs * kTileM * kSlabRowBytes;
    static constexpr uint32_t kBytesK = kSlabs * kTileN * kSlabRowBytes;
    static constexpr uint32_t kBytesV = kSlabsV * kTileN * kSlabRowBytes;
    static constexpr uint32_t kBytesOut = kSlabsV * kTileM * kSlabRowBytes;
    static constexpr uint32_t kBytesIn = kBytesQ + kStages * (kBytesK + kBytesV);
    static_assert(kTileM % (kWarps * kMmaRows) == 0 && kTileN % 16 == 0, "whole products");
    static_assert(kHeadDim % 16 == 0 && kHeadDimV % 16 == 0, "whole products");
    static_assert(kStages == 1 || kStages == 2, "one buffer, or two");
    static constexpr uint32_t kBytes = kBytesIn > kBytesOut ? kBytesIn : kBytesOut;
    static_assert(kBytes == FA3_SMEM_BYTES, "the variant row states another size");
};

template <bool kValue>
struct BoolConstant {
    static constexpr bool value = kValue;
};

// Work item of a thread block and what derives from it once. In shared memory: the main loop has no registers to spare.
template <class Element>
struct BlockWork {
    WorkItem item;
    int first_key;             // that any query of the sequence sees
    KeyRange unmasked_blocks;  // blocks that every row sees in full
    KeyRows<Element> keys;
    KeyRows<Element> values;
};

// Blocks of keys that need no mask. None with a softcap, which is rare: capped scores take the masked path throughout.
template <class C>
CUTE_DEVICE KeyRange find_unmasked_blocks(FwdParams const& p, WorkItem const& item) {
    if (p.scale.softcap_scale != 0.f) return {item.block_end, item.block_end};
    int const last = min(item.seqlen_q - 1, (item.first_row + C::kTileM - 1) / p.tiles.pack_gqa);
    KeyRange const first_sees =
        visible_keys<C::kMask>(p.mask, item.first_row / p.tiles.pack_gqa, item.seqlen_q, item.seqlen_k);
    KeyRange const last_sees = visible_keys<C::kMask>(p.mask, last, item.seqlen_q, item.seqlen_k);
    return {(last_sees.begin + C::kTileN - 1) / C::kTileN, max(0, first_sees.end) / C::kTileN};
}

template <class C>
CUTE_DEVICE void fold_scale_sign(unsigned char* q, float scale) {
    ScaleSign const sign(scale);
    auto* const pairs = reinterpret_cast<uint32_t*>(q);
    for (uint32_t i = threadIdx.x; i < C::kBytesQ / 4; i += C::kThreads) pairs[i] = sign.apply(pairs[i]);
}

// Fragments of a warp's rows of Q: kept in registers where they fit, else read again for every block of keys.
template <class C>
struct QueryFragments {
    using Fragments = uint32_t[C::kRowTiles][4];
    static constexpr int kSteps = C::kHeadDim / kMmaK;

    uint32_t rows;  // address of the warp's rows plus LaneOffsets::rows_first
    Fragments kept[C::kQInRegisters ? kSteps : 1];

    CUTE_DEVICE explicit QueryFragments(uint32_t rows) : rows(rows) {}

    CUTE_DEVICE void read(int step, Fragments& a) const {
        CUTE_UNROLL
        for (int t = 0; t < C::kRowTiles; ++t) {
            load_matrices(a[t], at_step<C::kTileM>(rows, step) + t * kMmaRows * kSlabRowBytes);
        }
    }
    CUTE_DEVICE void keep() {
        CUTE_UNROLL
        for (int step = 0; step < kSteps; ++step) read(step, kept[step]);
    }
    CUTE_DEVICE void operator()(int step, Fragments& a) const {
        if constexpr (C::kQInRegisters) {
            CUTE_UNROLL
            for (int i = 0; i < C::kRowTiles * 4; ++i) a[i / 4][i % 4] = kept[step][i / 4][i % 4];
        } else {
            read(step, a);
        }
    }
};

// Overwrites the rows of V that no query of the sequence sees, which are the first ones of the last block visited: they
// may hold NaN, and 0 * NaN is NaN.
template <class C>
CUTE_DEVICE void clear_unseen_values(int first_key, int block, unsigned char* v_tile) {
    int const bytes = (first_key - block * C::kTileN) * kSlabRowBytes;
    if (bytes <= 0) return;
    CUTE_UNROLL
    for (int slab = 0; slab < C::kSlabsV; ++slab) {
        for (int at = threadIdx.x * 4; at < bytes; at += C::kThreads * 4) {
            *reinterpret_cast<uint32_t*>(v_tile + slab * C::kTileN * kSlabRowBytes + at) = 0;
        }
    }
    __syncthreads();
}

template <class C>
CUTE_DEVICE void compute_tile(FwdParams const& p, unsigned char* smem, BlockWork<typename C::Element> const& work) {
    using Element = typename C::Element;
    int const lane = cutlass::canonical_lane_idx();
    int const warp = threadIdx.x / 32;
    WorkItem const& item = work.item;
    uint32_t const q_tile = static_cast<uint32_t>(__cvta_generic_to_shared(smem));
    uint32_t const k_tiles = q_tile + C::kBytesQ;
    uint32_t const v_tiles = k_tiles + C::kStages * C::kBytesK;
    auto const copy_k = [&](auto last, uint32_t stage, int block) {
        copy_key_block<Element, C::kTileN, C::kHeadDim, C::kThreads, last.value>(
            p.sequences, p.storage, item, p.k, work.keys, k_tiles + stage * C::kBytesK, block, work.first_key);
    };
    auto const copy_v = [&](auto last, uint32_t stage, int block) {
        copy_key_block<Element, C::kTileN, C::kHeadDimV, C::kThreads, last.value>(
            p.sequences, p.storage, item, p.v, work.values, v_tiles + stage * C::kBytesV, block, work.first_key);
    };
    using MayBeLast = BoolConstant<true>;
    using NotLast = BoolConstant<false>;

    auto const row_of = [&](int tile_row) { return query_row(p.tiles, item, item.first_row + tile_row); };
    auto const is_in_sequence = [&](int tile_row) { return item.first_row + tile_row < row_count(p.tiles, item); };
    int block = item.block_end - 1;
    auto const* const queries =
        sequence_rows<Element const>(p.q, item.batch, p.sequences.cu_seqlens_q != nullptr, item.start_q);
    copy_tile<Element, C::kTileM, C::kHeadDim, C::kThreads>(q_tile, p.sizes.head_dim, [&](int row) {
        QueryRow const at = row_of(row);
        return SourceRow<Element>{queries + at.position * p.q.stride_row + at.head * p.q.stride_head,
                                  is_in_sequence(row)};
    });
    copy_k(MayBeLast{}, 0, block);
    if constexpr (C::kStages == 2) copy_v(MayBeLast{}, 0, block);
    commit_copies();
    if (p.scale.scale_log2 <= 0.f) {
        wait_copies();
        __syncthreads();
        fold_scale_sign<C>(smem, p.scale.scale_log2);
    }
    uint32_t const q_rows = q_tile + warp * C::kWarpRows * kSlabRowBytes + LaneOffsets::rows_first(lane);
    QueryFragments<C> q(q_rows);
    if constexpr (C::kQInRegisters) {
        wait_copies();
        __syncthreads();
        q.keep();
    }

    float const scale_log2 = positive_scale(p.scale.scale_log2);
    OnlineSoftmax softmax[C::kRowTiles];
    float o[C::kRowTiles][C::kHeadDimV / 2];
    CUTE_UNROLL
    for (int t = 0; t < C::kRowTiles; ++t) {
        softmax[t] = OnlineSoftmax(scale_log2);
        CUTE_UNROLL
        for (int i = 0; i < C::kHeadDimV / 2; ++i) o[t][i] = 0.f;
    }
    auto const mask = [&](float(&s)[C::kRowTiles][C::kTileN / 2]) {
        CUTE_UNROLL
        for (int t = 0; t < C::kRowTiles; ++t) {
            KeyRange visible[2];
            CUTE_UNROLL
            for (int half = 0; half < 2; ++half) {
                int const row = warp * C::kWarpRows + t * kMmaRows + half * 8 + lane / 4;
                int const position = row_of(row).position;
                visible[half] = visible_keys<C::kMask>(p.mask, position, item.seqlen_q, item.seqlen_k);
            }
            if (p.scale.softcap_scale != 0.f) cap_scores(s[t], p.scale.softcap_scale);
            mask_scores<C::kMask>(s[t], block * C::kTileN + lane % 4 * 2, visible);
        }
    };

    // Two buffers: the copies of the next block overlap with the whole step. One buffer: those of V overlap with the
    // scores, those of the next K with the rest. After a barrier every warp has read what the copies behind it
    // overwrite.
    uint32_t stage = 0;
    CUTE_NO_UNROLL
    for (; block >= item.block_begin; --block) {
        wait_copies();
        __syncthreads();
        uint32_t const k_tile = k_tiles + stage * C::kBytesK;
        uint32_t const v_tile = v_tiles + stage * C::kBytesV;
        if constexpr (C::kStages == 1) {
            copy_v(MayBeLast{}, 0, block);
        } else if (block > item.block_begin) {
            stage ^= 1;
            copy_k(NotLast{}, stage, block - 1);
            copy_v(NotLast{}, stage, block - 1);
        }
        commit_copies();
        float s[C::kRowTiles][C::kTileN / 2];
        product_qk<Element, C::kRowTiles, C::kTileN, C::kHeadDim>(q, k_tile + LaneOffsets::columns_first(lane), s);
        if constexpr (C::kStages == 1) {
            wait_copies();
            __syncthreads();
            if (block > item.block_begin) copy_k(NotLast{}, 0, block - 1);
            commit_copies();
        }
        clear_unseen_values<C>(work.first_key, block, smem + (v_tile - q_tile));
        if (block >= work.unmasked_blocks.end || block < work.unmasked_blocks.begin) mask(s);
        CUTE_UNROLL
        for (int t = 0; t < C::kRowTiles; ++t) {
            if (softmax[t].update_max(s[t])) softmax[t].rescale(o[t]);
        }
        CUTE_UNROLL
        for (int chunk = 0; chunk < C::kTileN / kMmaK; ++chunk) {
            uint32_t a[C::kRowTiles][4];
            CUTE_UNROLL
            for (int t = 0; t < C::kRowTiles; ++t) {
                auto& scores = *reinterpret_cast<float(*)[8]>(&s[t][8 * chunk]);
                softmax[t].exponentiate(scores);
                to_operand<Element>(scores, a[t]);
            }
            product_pv<Element, C::kRowTiles, C::kTileN, C::kHeadDimV>(a, v_tile + LaneOffsets::rows_first(lane),
                                                                       chunk, o);
        }
    }

    __syncthreads();  // O is staged where Q, K and V lay
    float* const lse =
        p.lse.data + (p.sequences.cu_seqlens_q ? fa3_i64(item.start_q) : item.batch * p.lse.stride_batch);
    CUTE_UNROLL
    for (int t = 0; t < C::kRowTiles; ++t) {
        int const rows[2] = {warp * C::kWarpRows + t * kMmaRows + lane / 4,
                             warp * C::kWarpRows + t * kMmaRows + lane / 4 + 8};
        float sinks_log2[2];
        float row_lse[2];
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            sinks_log2[half] = p.sink ? p.sink[row_of(rows[half]).head] * kLog2E : -infinity();
        }
        softmax[t].finish(sinks_log2, o[t], row_lse);
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            QueryRow const at = row_of(rows[half]);
            if (lane % 4 == 0 && item.slice == 0 && is_in_sequence(rows[half])) {
                lse[at.head * p.lse.stride_head + at.position] = row_lse[half];
            }
        }
    }
    stage_rows<Element, C::kTileM, C::kRowTiles, C::kHeadDimV>(smem, o, warp);
    auto* const out =
        sequence_rows<Element>(p.out, item.batch, p.sequences.cu_seqlens_q != nullptr, item.start_q);
    int const first_column = item.slice * C::kHeadDimV;
    store_staged_rows<Element, C::kTileM, C::kWarpRows, C::kHeadDimV>(
        smem, warp, first_column, p.sizes.head_dim_v, is_in_sequence, [&](int row) {
            QueryRow const at = row_of(row);
            return out + at.position * p.out.stride_row + at.head * p.out.stride_head + first_column;
        });
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::Config::kThreads, FA3_BLOCKS_PER_SM)
    FA3_KERNEL(const __grid_constant__ fa3::FwdParams p) {
    using C = fa3::Config;
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ fa3::BlockWork<C::Element> work;
    if (threadIdx.x < 32) {
        fa3::TileOrder<C::kMask, C::kTileM, C::kTileN> order{{p.sequences, p.sizes, p.storage, p.mask, p.tiles}};
        fa3::WorkItem const item = order.find(blockIdx.x);
        if (threadIdx.x == 0) {
            work.item = item;
            if (item.head >= 0) {
                work.first_key = fa3::first_seen_key<C::kMask>(p.mask, item.seqlen_q, item.seqlen_k);
                work.unmasked_blocks = fa3::find_unmasked_blocks<C>(p, item);
                work.keys = fa3::key_rows<C::Element>(p.sequences, p.sizes, p.k, item, 0, p.sizes.head_dim);
                work.values = fa3::key_rows<C::Element>(p.sequences, p.sizes, p.v, item, item.slice * C::kHeadDimV,
                                                        p.sizes.head_dim_v);
            }
        }
    }
    __syncthreads();
    if (work.item.head >= 0) fa3::compute_tile<C>(p, smem, work);  // of a ragged batch the grid is an upper bound
}
