// Attention forward for compute capability 8.0 and newer: cp.async in, mma.sync, one thread block a tile. Design note:
// fwd_portable.md.
//
// The variant table compiles this file once a row; the row arrives as FA3_* macros. One kernel serves every mask.
#include <cutlass/cutlass.h>

#include "params/fwd.h"
#include "parts/mask.cuh"
#include "arch/sm80/mma_sync.cuh"
#include "parts/scheduler.cuh"
#include "parts/shared_tile.cuh"
#include "parts/softmax.cuh"

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
    static constexpr Mask kMask = Mask::kLocal;  // parameters that are absent leave the other masks

    static constexpr int kThreads = kWarps * 32;
    static constexpr int kWarpRows = kTileM / kWarps;
    static constexpr int kRowTiles = kWarpRows / kMmaRows;  // they share every fragment of K and V
    static constexpr int kSlabs = (kHeadDim + kSlab - 1) / kSlab;
    static constexpr int kSlabsV = (kHeadDimV + kSlab - 1) / kSlab;
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

// A tile row as the caller sees it.
struct QueryRow {
    int position;
    int head;
};

CUTE_DEVICE QueryRow query_row(FwdParams const& p, Work const& work, int tile_row) {
    int const row = work.first_row + tile_row;
    int const position = row / p.tiles.pack_gqa;
    return {position, work.head + row - position * p.tiles.pack_gqa};
}

CUTE_DEVICE bool is_there(FwdParams const& p, Work const& work, int tile_row) {
    return work.first_row + tile_row < work.seqlen_q * p.tiles.pack_gqa;
}

// First row of a sequence, of head 0.
template <class Element>
CUTE_DEVICE Element* sequence(Operand const& operand, int batch, bool packed, int start) {
    return static_cast<Element*>(operand.data) + batch * operand.stride_batch +
           (packed ? start * operand.stride_row : 0);
}

// Keys, or the values of one slice, of one head.
template <class Element>
struct KeyRows {
    Element const* data;  // of the sequence; with pages, of page 0
    int columns;
};

template <class Element>
CUTE_DEVICE KeyRows<Element> key_rows(FwdParams const& p, Operand const& operand, Work const& work, int first_column,
                                      int columns) {
    int const head = work.head / (p.sizes.heads_q / p.sizes.heads_kv);
    auto const* const first = sequence<Element const>(operand, p.sequences.page_table ? 0 : work.batch,
                                                      p.sequences.cu_seqlens_k != nullptr, work.start_k);
    return {first + head * operand.stride_head + first_column, columns - first_column};
}

// What a thread block works on. It lies in shared memory: the loop over the keys has no registers to spare for it.
template <class Element>
struct Task {
    Work work;
    KeyRange clear_blocks;  // that every row sees in full
    KeyRows<Element> keys;
    KeyRows<Element> values;
};

// Blocks of keys that need no mask. Capped scores, which are rare, take the masked way throughout.
template <class C>
CUTE_DEVICE KeyRange clear_blocks(FwdParams const& p, Work const& work) {
    if (p.scale.softcap_scale != 0.f) return {work.block_end, work.block_end};
    int const last = min(work.seqlen_q - 1, (work.first_row + C::kTileM - 1) / p.tiles.pack_gqa);
    KeyRange const first_sees = visible_keys<C::kMask>(p, work.first_row / p.tiles.pack_gqa, work.seqlen_q, work.seqlen_k);
    KeyRange const last_sees = visible_keys<C::kMask>(p, last, work.seqlen_q, work.seqlen_k);
    return {(last_sees.begin + C::kTileN - 1) / C::kTileN, max(0, first_sees.end) / C::kTileN};
}

// Whether a block of keys may be the last of its sequence, as a type.
template <bool kValue>
struct Last {
    static constexpr bool value = kValue;
};

// Starts the copy of one block of keys, or of values. Rows from seqlen_k on, which only the last block has, are not
// read: what lies there may be NaN, and 0 * NaN is NaN.
template <class C, int Columns, bool kLast>
CUTE_DEVICE void copy_keys(FwdParams const& p, Work const& work, Operand const& operand,
                           KeyRows<typename C::Element> const& rows, uint32_t to, int block) {
    using Row = SourceRow<typename C::Element>;
    int const first_key = block * C::kTileN;
    if (p.sequences.page_table == nullptr) {
        auto const* const data = rows.data + first_key * operand.stride_row;
        copy_tile<C::kTileN, Columns, C::kThreads>(to, rows.columns, [&](int row) {
            return Row{data + row * operand.stride_row, !kLast || first_key + row < work.seqlen_k};
        });
    } else {
        int const* const pages = p.sequences.page_table + static_cast<fa3_i64>(work.batch) * p.storage.page_table_stride;
        copy_tile<C::kTileN, Columns, C::kThreads>(to, rows.columns, [&](int row) {
            int const key = first_key + row;
            if (kLast && key >= work.seqlen_k) return Row{rows.data, false};
            int const index = static_cast<int>(static_cast<uint32_t>(key) / static_cast<uint32_t>(p.storage.page_size));
            int const within = key - index * p.storage.page_size;
            return Row{rows.data + pages[index] * operand.stride_batch + within * operand.stride_row, true};
        });
    }
}

// A scale that is not positive would turn the row maximum into a minimum: give its sign (or its zero) to Q instead.
template <class C>
CUTE_DEVICE void fold_scale_sign(unsigned char* q, float scale) {
    uint32_t const keep = scale == 0.f ? 0u : 0xFFFFFFFFu;
    uint32_t const flip = scale < 0.f ? 0x80008000u : 0u;
    auto* const words = reinterpret_cast<uint32_t*>(q);
    for (uint32_t i = threadIdx.x; i < C::kBytesQ / 4; i += C::kThreads) words[i] = (words[i] & keep) ^ flip;
}

// Writes this warp's rows of O, by way of shared memory, so that eight threads write 128 bytes of a row.
template <class C>
CUTE_DEVICE void store_output(FwdParams const& p, Work const& work, unsigned char* staging, int warp,
                              float const (&o)[C::kRowTiles][C::kHeadDimV / 2]) {
    using Element = typename C::Element;
    int const lane = cutlass::canonical_lane_idx();
    CUTE_UNROLL
    for (int t = 0; t < C::kRowTiles; ++t) {
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            int const row = warp * C::kWarpRows + t * kMmaRows + half * 8 + lane / 4;
            CUTE_UNROLL
            for (int column = 0; column < C::kHeadDimV; column += kChunk) {
                auto* const slab = staging + column / kSlab * C::kTileM * kSlabRowBytes;
                float const* const pair = &o[t][column / 2 + 2 * half];
                *reinterpret_cast<uint32_t*>(slab + chunk_offset(row, column % kSlab / kChunk) + lane % 4 * 4) =
                    pack(Element{}, pair[0], pair[1]);
            }
        }
    }
    __syncwarp();
    auto* const out = sequence<Element>(p.out, work.batch, p.sequences.cu_seqlens_q != nullptr, work.start_q);
    int const chunk = lane % kChunksOfSlab;
    int const first_column = work.slice * C::kHeadDimV;
    CUTE_NO_UNROLL
    for (int pass = 0; pass < C::kWarpRows; pass += 32 / kChunksOfSlab) {
        int const row = warp * C::kWarpRows + pass + lane / kChunksOfSlab;
        if (!is_there(p, work, row)) break;
        QueryRow const at = query_row(p, work, row);
        Element* const to = out + at.position * p.out.stride_row + at.head * p.out.stride_head + first_column;
        CUTE_UNROLL
        for (int slab = 0; slab < C::kSlabsV; ++slab) {
            int const column = slab * kSlab + chunk * kChunk;
            if (column < C::kHeadDimV && first_column + column + kChunk <= p.sizes.head_dim_v) {
                *reinterpret_cast<uint4*>(to + column) = *reinterpret_cast<uint4 const*>(
                    staging + slab * C::kTileM * kSlabRowBytes + chunk_offset(row, chunk));
            }
        }
    }
    // The last columns of a row that is no whole number of chunks: what lies behind them may be somebody else's.
    int const tail = p.sizes.head_dim_v - p.sizes.head_dim_v % kChunk - first_column;
    if (p.sizes.head_dim_v % kChunk == 0 || tail < 0 || tail >= C::kHeadDimV) return;
    auto const* const slab = staging + tail / kSlab * C::kTileM * kSlabRowBytes;
    CUTE_NO_UNROLL
    for (int r = 0; r < C::kWarpRows; ++r) {
        int const row = warp * C::kWarpRows + r;
        if (!is_there(p, work, row)) break;
        QueryRow const at = query_row(p, work, row);
        Element* const to = out + at.position * p.out.stride_row + at.head * p.out.stride_head + first_column;
        auto const* const from = reinterpret_cast<Element const*>(slab + chunk_offset(row, tail % kSlab / kChunk));
        if (lane < p.sizes.head_dim_v % kChunk) to[tail + lane] = from[lane];
    }
}

// A warp's rows of Q: in registers where there is room for them, read again for every block of keys where not.
template <class C>
struct QueryFragments {
    using Fragments = uint32_t[C::kRowTiles][4];
    static constexpr int kSteps = C::kHeadDim / kMmaK;

    uint32_t rows;  // where the lane's rows lie: rows_first
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

template <class C>
CUTE_DEVICE void attend(FwdParams const& p, unsigned char* smem, Task<typename C::Element> const& task) {
    using Element = typename C::Element;
    int const lane = cutlass::canonical_lane_idx();
    int const warp = threadIdx.x / 32;
    Work const& work = task.work;
    uint32_t const q_tile = static_cast<uint32_t>(__cvta_generic_to_shared(smem));
    uint32_t const k_tiles = q_tile + C::kBytesQ;
    uint32_t const v_tiles = k_tiles + C::kStages * C::kBytesK;
    auto const copy_k = [&](auto last, uint32_t stage, int block) {
        copy_keys<C, C::kHeadDim, last.value>(p, work, p.k, task.keys, k_tiles + stage * C::kBytesK, block);
    };
    auto const copy_v = [&](auto last, uint32_t stage, int block) {
        copy_keys<C, C::kHeadDimV, last.value>(p, work, p.v, task.values, v_tiles + stage * C::kBytesV, block);
    };

    int block = work.block_end - 1;
    auto const* const queries = sequence<Element const>(p.q, work.batch, p.sequences.cu_seqlens_q != nullptr, work.start_q);
    copy_tile<C::kTileM, C::kHeadDim, C::kThreads>(q_tile, p.sizes.head_dim, [&](int row) {
        QueryRow const at = query_row(p, work, row);
        return SourceRow<Element>{queries + at.position * p.q.stride_row + at.head * p.q.stride_head,
                                  is_there(p, work, row)};
    });
    copy_k(Last<true>{}, 0, block);
    if constexpr (C::kStages == 2) copy_v(Last<true>{}, 0, block);
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

    float const scale_log2 = p.scale.scale_log2 == 0.f ? 1.f : fabsf(p.scale.scale_log2);
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
                int const position = query_row(p, work, row).position;
                visible[half] = visible_keys<C::kMask>(p, position, work.seqlen_q, work.seqlen_k);
            }
            if (p.scale.softcap_scale != 0.f) cap_scores(s[t], p.scale.softcap_scale);
            mask_scores<C::kMask>(s[t], block * C::kTileN + lane % 4 * 2, visible);
        }
    };

    // With two buffers the next block's copies run under the whole step; with one, V's run under the scores, and the
    // next K's under the rest. Behind a barrier every warp has read what the copies that follow it overwrite.
    uint32_t stage = 0;
    CUTE_NO_UNROLL
    for (; block >= work.block_begin; --block) {
        wait_copies();
        __syncthreads();
        uint32_t const k_tile = k_tiles + stage * C::kBytesK;
        uint32_t const v_tile = v_tiles + stage * C::kBytesV;
        if constexpr (C::kStages == 1) {
            copy_v(Last<true>{}, 0, block);
        } else if (block > work.block_begin) {
            stage ^= 1;
            copy_k(Last<false>{}, stage, block - 1);
            copy_v(Last<false>{}, stage, block - 1);
        }
        commit_copies();
        float s[C::kRowTiles][C::kTileN / 2];
        product_qk<Element, C::kRowTiles, C::kTileN, C::kHeadDim>(q, k_tile + LaneOffsets::columns_first(lane), s);
        if constexpr (C::kStages == 1) {
            wait_copies();
            __syncthreads();
            if (block > work.block_begin) copy_k(Last<false>{}, 0, block - 1);
            commit_copies();
        }
        if (block >= task.clear_blocks.end || block < task.clear_blocks.begin) mask(s);
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
    constexpr float kLog2E = 1.442695040888963f;
    float* const lse = p.lse.data + (p.sequences.cu_seqlens_q ? fa3_i64(work.start_q) : work.batch * p.lse.stride_batch);
    CUTE_UNROLL
    for (int t = 0; t < C::kRowTiles; ++t) {
        int const rows[2] = {warp * C::kWarpRows + t * kMmaRows + lane / 4,
                             warp * C::kWarpRows + t * kMmaRows + lane / 4 + 8};
        float sinks_log2[2];
        float row_lse[2];
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            sinks_log2[half] = p.sink ? p.sink[query_row(p, work, rows[half]).head] * kLog2E : -infinity();
        }
        softmax[t].finish(sinks_log2, o[t], row_lse);
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            QueryRow const at = query_row(p, work, rows[half]);
            if (lane % 4 == 0 && work.slice == 0 && is_there(p, work, rows[half])) {
                lse[at.head * p.lse.stride_head + at.position] = row_lse[half];
            }
        }
    }
    store_output<C>(p, work, smem, warp, o);
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::Config::kThreads, FA3_BLOCKS_PER_SM)
    FA3_KERNEL(const __grid_constant__ fa3::FwdParams p) {
    using C = fa3::Config;
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ fa3::Task<C::Element> task;
    if (threadIdx.x < 32) {
        fa3::TileFinder<C::kMask, C::kTileM, C::kTileN> finder;
        fa3::Work const work = finder.find(p, blockIdx.x);
        if (threadIdx.x == 0) {
            task.work = work;
            if (work.head >= 0) {
                task.clear_blocks = fa3::clear_blocks<C>(p, work);
                task.keys = fa3::key_rows<C::Element>(p, p.k, work, 0, p.sizes.head_dim);
                task.values = fa3::key_rows<C::Element>(p, p.v, work, work.slice * C::kHeadDimV, p.sizes.head_dim_v);
            }
        }
    }
    __syncthreads();
    if (task.work.head >= 0) fa3::attend<C>(p, smem, task);  // of ragged batches the grid is an upper bound
}
