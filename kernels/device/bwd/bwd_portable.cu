// Attention backward for compute capability 8.0 and newer: cp.async loads, mma.sync, one thread block a tile of keys.
// Design note: bwd_portable.md; the launches around it: bwd.md.
//
// Compiled once per variant, whose row arrives as FA3_* macros. One kernel serves every mask.
#include <cutlass/cutlass.h>

#include "arch/sm80/mma_sync.cuh"
#include "params/bwd.h"
#include "parts/dq_order.cuh"
#include "parts/key_tile.cuh"
#include "parts/load_cp_async.cuh"
#include "parts/math.cuh"
#include "parts/query_mask.cuh"
#include "parts/query_tiles.cuh"
#include "parts/softcap.cuh"
#include "parts/store_chunks.cuh"
#include "parts/turns.cuh"

namespace fa3 {

struct Config {
    using Element = FA3_ELEMENT;
    static constexpr int kHeadDim = FA3_HEAD_DIM;
    static constexpr int kHeadDimV = FA3_HEAD_DIM_V;
    static constexpr int kTileM = FA3_TILE_M;
    static constexpr int kTileN = FA3_TILE_N;
    static constexpr int kWarps = FA3_WARPS;
    static constexpr int kStages = FA3_STAGES;  // buffers for Q, and as many for dO

    static constexpr int kSplit = FA3_SPLIT;  // warps that share their keys: each takes a part of the queries and columns

    static constexpr int kThreads = kWarps * 32;
    static constexpr int kKeyGroups = kWarps / kSplit;
    static constexpr int kWarpKeys = kTileN / kKeyGroups;
    static constexpr int kKeyTiles = kWarpKeys / kMmaRows;  // share every fragment of Q and dO
    static constexpr int kQueries = kTileM / kSplit;
    static constexpr int kColumnsK = kHeadDim / kSplit;
    static constexpr int kColumnsV = kHeadDimV / kSplit;
    // dQ: the warps share its rows, then its columns.
    static constexpr int kRowGroups = kWarps < kTileM / kMmaRows ? kWarps : kTileM / kMmaRows;
    static constexpr int kRowTiles = kTileM / kMmaRows / kRowGroups;
    static constexpr int kColumnGroups = kWarps / kRowGroups;
    static constexpr int kColumns = kHeadDim / kColumnGroups;
    static constexpr int kSlabs = slab_count<Element>(kHeadDim);
    static constexpr int kSlabsV = slab_count<Element>(kHeadDimV);
    static constexpr int kSlabsM = slab_count<Element>(kTileM);
    static constexpr uint32_t kBytesK = kSlabs * kTileN * kSlabRowBytes;
    static constexpr uint32_t kBytesV = kSlabsV * kTileN * kSlabRowBytes;
    static constexpr uint32_t kBytesQ = kSlabs * kTileM * kSlabRowBytes;
    static constexpr uint32_t kBytesDo = kSlabsV * kTileM * kSlabRowBytes;
    static constexpr uint32_t kBytesDs = kSlabsM * kTileN * kSlabRowBytes;
    static constexpr uint32_t kBytesP = kSplit > 1 ? kBytesDs : 0;
    static constexpr uint32_t kBytesRows = kTileM * sizeof(float);  // LSE, and as many for delta
    static constexpr uint32_t kBytesStage = kBytesQ + kBytesDo + 2 * kBytesRows;
    static constexpr uint32_t kBytes = kBytesK + kBytesV + kStages * kBytesStage + kBytesDs + kBytesP;
    static_assert(kTileN % (kKeyGroups * kMmaRows) == 0 && kQueries % kMmaK == 0, "whole products");
    static_assert(kTileM % (kRowGroups * kMmaRows) == 0 && kHeadDim % (kColumnGroups * 16) == 0, "whole products");
    static_assert(kColumnsK % 16 == 0 && kColumnsV % 16 == 0, "whole products");
    static_assert(kStages == 1 || kStages == 2, "one buffer, or two");
    static_assert(kBytes == FA3_SMEM_BYTES, "the variant row states another size");
};

// Fragments of a warp's rows of K or V, read again for every tile of queries.
template <class C>
struct KeyFragments {
    uint32_t rows;  // address of the warp's rows plus LaneOffsets::rows_first

    CUTE_DEVICE void operator()(int step, uint32_t (&a)[C::kKeyTiles][4]) const {
        CUTE_UNROLL
        for (int t = 0; t < C::kKeyTiles; ++t) {
            load_matrices(a[t], at_step<C::kTileN>(rows, step) + t * kMmaRows * kSlabRowBytes);
        }
    }
};

// o (keys of the warp x Columns) += p . v (queries of a step x Columns from 16 * first on). `load_p(step, a)` loads the
// fragments of p; `v`: address of the tile plus LaneOffsets::rows_first.
template <class C, class LoadP, int Count>
CUTE_DEVICE void add_products(LoadP const& load_p, uint32_t v, float (&o)[C::kKeyTiles][Count], int first) {
    CUTE_UNROLL
    for (int step = 0; step < C::kTileM / kMmaK; ++step) {
        uint32_t a[C::kKeyTiles][4];
        load_p(step, a);
        product_pv<typename C::Element, C::kKeyTiles, C::kTileM, 2 * Count>(a, v, step, o, first);
    }
}

template <int kColumns>
struct Columns {
    static constexpr int value = kColumns;
};
template <bool kValue>
struct BoolConstant {
    static constexpr bool value = kValue;
};

template <class C>
CUTE_DEVICE void compute_tile(BwdParams const& p, unsigned char* smem, KeyTile const& at) {
    using Element = typename C::Element;
    int const warp = threadIdx.x / 32;
    int const group = p.sizes.heads_q / p.sizes.heads_kv;
    uint32_t const k_tile = static_cast<uint32_t>(__cvta_generic_to_shared(smem));
    uint32_t const v_tile = k_tile + C::kBytesK;
    uint32_t const stages = v_tile + C::kBytesV;
    uint32_t const ds_tile = stages + C::kStages * C::kBytesStage;
    uint32_t const p_tile = ds_tile + C::kBytesDs;
    int const key_group = warp % C::kKeyGroups;
    int const part = warp / C::kKeyGroups;
    int const first_column_query = part * C::kQueries;  // of the warp's scores
    bool const packed_q = p.sequences.cu_seqlens_q != nullptr;
    bool const packed_k = p.sequences.cu_seqlens_k != nullptr;

    auto const copy_keys = [&](auto columns, Operand const& operand, int used_columns, uint32_t to) {
        auto const* const rows = sequence_rows<Element const>(operand, at.batch, packed_k, at.keys.start) +
                                 at.head_kv * operand.stride_head;
        copy_tile<Element, C::kTileN, columns.value, C::kThreads>(to, used_columns, [&](int row) {
            int const key = at.first_key + row;
            bool const used = key >= at.seen.begin && key < at.seen.end;
            return SourceRow<Element>{rows + (used ? key : 0) * operand.stride_row, used};
        });
    };
    auto const copy_queries = [&](auto columns, Operand const& operand, int used_columns, uint32_t to, int head, int tile) {
        auto const* const rows = sequence_rows<Element const>(operand, at.batch, packed_q, at.queries.start) +
                                 head * operand.stride_head;
        copy_tile<Element, C::kTileM, columns.value, C::kThreads>(to, used_columns, [&](int row) {
            int const position = tile * C::kTileM + row;
            bool const used = position < at.queries.length;
            return SourceRow<Element>{rows + (used ? position : 0) * operand.stride_row, used};
        });
    };
    int const steps = at.steps(group);
    auto const copy_step = [&](int index, uint32_t stage) {
        QueryTile const step = at.step(index, group);
        uint32_t const to = stages + stage * C::kBytesStage;
        copy_queries(Columns<C::kHeadDim>{}, p.q, p.sizes.head_dim, to, step.head, step.tile);
        copy_queries(Columns<C::kHeadDimV>{}, p.dout, p.sizes.head_dim_v, to + C::kBytesQ, step.head, step.tile);
        fa3_i64 const row = workspace_tile(p, at.batch, step.head, step.tile) * C::kTileM;
        uint32_t const rows = to + C::kBytesQ + C::kBytesDo;
        constexpr int kChunks = C::kBytesRows / kChunkBytes;
        static_assert(kChunks <= 32 && C::kWarps >= 2, "a warp copies the LSE, another delta");
        if (warp < 2 && opaque_lane() < kChunks) {
            float const* const from = warp == 0 ? p.workspace.lse_log2 : p.workspace.minus_delta;
            copy_chunk(rows + warp * C::kBytesRows + opaque_lane() * kChunkBytes, from + row + opaque_lane() * 4, kChunkBytes);
        }
    };

    float dk[C::kKeyTiles][C::kColumnsK / 2];
    float dv[C::kKeyTiles][C::kColumnsV / 2];
    CUTE_UNROLL
    for (int t = 0; t < C::kKeyTiles; ++t) {
        CUTE_UNROLL
        for (int i = 0; i < C::kColumnsK / 2; ++i) dk[t][i] = 0.f;
        CUTE_UNROLL
        for (int i = 0; i < C::kColumnsV / 2; ++i) dv[t][i] = 0.f;
    }
    if (steps > 0) {
        copy_keys(Columns<C::kHeadDim>{}, p.k, p.sizes.head_dim, k_tile);
        copy_keys(Columns<C::kHeadDimV>{}, p.v, p.sizes.head_dim_v, v_tile);
        copy_step(0, 0);
        commit_copies();
    }

    CUTE_NO_UNROLL
    for (int index = 0; index < steps; ++index) {
        int const lane = opaque_lane();  // the addresses below would take thirty registers outside of the loop
        uint32_t const warp_rows = key_group * C::kWarpKeys * kSlabRowBytes + LaneOffsets::rows_first(lane);
        KeyFragments<C> const keys{k_tile + warp_rows};
        KeyFragments<C> const values{v_tile + warp_rows};
        QueryTile const step = at.step(index, group);
        uint32_t const stage = C::kStages == 1 ? 0 : index % 2;
        uint32_t const q_tile = stages + stage * C::kBytesStage;
        uint32_t const do_tile = q_tile + C::kBytesQ;
        auto const* const lse_log2 = reinterpret_cast<float const*>(smem + (do_tile - k_tile) + C::kBytesDo);
        auto const* const minus_delta = lse_log2 + C::kTileM;
        wait_copies();
        __syncthreads();
        if (C::kStages == 2 && index + 1 < steps) copy_step(index + 1, stage ^ 1);
        commit_copies();

        // Scores and the gradients of P, transposed: the warp's keys by its queries.
        float s[C::kKeyTiles][C::kQueries / 2];
        float ds[C::kKeyTiles][C::kQueries / 2];
        uint32_t const query_rows = first_column_query * kSlabRowBytes + LaneOffsets::columns_first(lane);
        product_qk<Element, C::kKeyTiles, C::kQueries, C::kHeadDim, C::kTileM>(keys, q_tile + query_rows, s);
        product_qk<Element, C::kKeyTiles, C::kQueries, C::kHeadDimV, C::kTileM>(values, do_tile + query_rows, ds);

        int const first_query = step.tile * C::kTileM;
        bool const capped = p.scale.softcap_scale != 0.f;
        bool const masked = at.is_masked(step.tile);
        // P in place of the scores, and the gradients of the scores in place of those of P.
        auto const weigh = [&](auto plain) {
            CUTE_UNROLL
            for (int t = 0; t < C::kKeyTiles; ++t) {
                QueryRange sees[2];
                if constexpr (!plain.value) {
                    CUTE_UNROLL
                    for (int half = 0; half < 2; ++half) {
                        int const key = at.first_key + key_group * C::kWarpKeys + t * kMmaRows + half * 8 + lane / 4;
                        sees[half] = at.queries_of_key(p.mask, key);
                    }
                    if (capped) cap_scores(s[t], p.scale.softcap_scale);
                }
                CUTE_UNROLL
                for (int i = 0; i < C::kQueries / 2; ++i) {
                    // Columns of a lane are neighbours in the order of `statistics_place`.
                    int const place = lane % 4 * (C::kTileM / 4) + first_column_query / 4 + i / 4 * 2 + i % 2;
                    int const column = first_column_query + i / 4 * 8 + lane % 4 * 2 + i % 2;
                    float const score = s[t][i];
                    float weight = exp2_approx(fmaf(score, p.scale.scale_log2, -lse_log2[place]));
                    if constexpr (!plain.value) {
                        QueryRange const range = sees[i / 2 % 2];
                        int const query = first_query + column;
                        if (query < range.begin || query >= range.end) weight = 0.f;
                    }
                    float gradient = weight * (ds[t][i] + minus_delta[place]);
                    if constexpr (!plain.value) gradient *= capped ? 1.f - score * score : 1.f;
                    s[t][i] = weight;
                    ds[t][i] = gradient;
                }
            }
        };
        if (masked || capped) {
            weigh(BoolConstant<false>{});
        } else {
            weigh(BoolConstant<true>{});
        }
        auto const fragments_of = [](auto& accumulators) {
            return [&](int step, uint32_t (&a)[C::kKeyTiles][4]) {
                CUTE_UNROLL
                for (int t = 0; t < C::kKeyTiles; ++t) {
                    to_operand<Element>(*reinterpret_cast<float(*)[8]>(&accumulators[t][8 * step]), a[t]);
                }
            };
        };
        unsigned char* const ds_staging = smem + (ds_tile - k_tile);
        if constexpr (C::kSplit == 1) {
            add_products<C>(fragments_of(s), do_tile + LaneOffsets::rows_first(lane), dv, 0);
            stage_rows<Element, C::kTileN, C::kKeyTiles, C::kQueries>(ds_staging, ds, key_group);
            add_products<C>(fragments_of(ds), q_tile + LaneOffsets::rows_first(lane), dk, 0);
        } else {
            stage_rows<Element, C::kTileN, C::kKeyTiles, C::kQueries>(smem + (p_tile - k_tile), s, key_group, first_column_query);
            stage_rows<Element, C::kTileN, C::kKeyTiles, C::kQueries>(ds_staging, ds, key_group, first_column_query);
            __syncthreads();
            add_products<C>(KeyFragments<C>{p_tile + warp_rows}, do_tile + LaneOffsets::rows_first(lane), dv, part * C::kColumnsV / 16);
            add_products<C>(KeyFragments<C>{ds_tile + warp_rows}, q_tile + LaneOffsets::rows_first(lane), dk, part * C::kColumnsK / 16);
        }
        __syncthreads();  // the gradients of all keys are in shared memory, and Q and dO are read
        if (C::kStages == 1 && index + 1 < steps) copy_step(index + 1, 0);
        commit_copies();

        float dq[C::kRowTiles][C::kColumns / 2];
        CUTE_UNROLL
        for (int t = 0; t < C::kRowTiles; ++t) {
            CUTE_UNROLL
            for (int i = 0; i < C::kColumns / 2; ++i) dq[t][i] = 0.f;
        }
        int const first_row_tile = warp % C::kRowGroups * C::kRowTiles;
        int const first_column = warp / C::kRowGroups * C::kColumns;
        CUTE_NO_UNROLL
        for (int chunk = 0; chunk < C::kTileN / kMmaK; ++chunk) {
            uint32_t a[C::kRowTiles][4];
            CUTE_UNROLL
            for (int t = 0; t < C::kRowTiles; ++t) {
                load_matrices_transposed(a[t], at_step<C::kTileN>(ds_tile + LaneOffsets::columns_first(lane), first_row_tile + t) +
                                                   chunk * kMmaK * kSlabRowBytes);
            }
            product_pv<Element, C::kRowTiles, C::kTileN, C::kColumns>(a, k_tile + LaneOffsets::rows_first(lane), chunk, dq,
                                                                     first_column / 16);
        }
        fa3_i64 const place = workspace_tile(p, at.batch, step.head, step.tile);
        float* const sums = p.workspace.dq + place * C::kTileM * C::kHeadDim + lane;
        if (p.workspace.turns != nullptr) wait_turn(p.workspace.turns + place, at.first_key / C::kTileN);
        CUTE_UNROLL
        for (int t = 0; t < C::kRowTiles; ++t) {
            CUTE_UNROLL
            for (int column = 0; column < C::kColumns; column += 8) {
                int const to = accumulator_offset(first_row_tile + t, (first_column + column) / 8, C::kHeadDim);
                CUTE_UNROLL
                for (int i = 0; i < 4; ++i) atomicAdd(sums + to + i * 32, dq[t][column / 2 + i]);
            }
        }
        if (p.workspace.turns != nullptr) pass_turn(p.workspace.turns + place);
    }

    __syncthreads();  // dK and dV are staged where K and V lay
    CUTE_UNROLL
    for (int t = 0; t < C::kKeyTiles; ++t) {
        CUTE_UNROLL
        for (int i = 0; i < C::kColumnsK / 2; ++i) dk[t][i] *= p.softmax_scale;
    }
    stage_rows<Element, C::kTileN, C::kKeyTiles, C::kColumnsK>(smem, dk, key_group, part * C::kColumnsK);
    stage_rows<Element, C::kTileN, C::kKeyTiles, C::kColumnsV>(smem + C::kBytesK, dv, key_group, part * C::kColumnsV);
    __syncthreads();
    auto const is_in_slot = [&](int row) { return at.first_key + row < at.keys.slot; };
    auto const store = [&](auto columns, Operand const& operand, int const& used_columns, unsigned char* staging) {
        auto* const first = sequence_rows<Element>(operand, at.batch, packed_k, at.keys.start) +
                            at.head_kv * operand.stride_head + at.first_key * operand.stride_row;
        store_staged_rows<Element, C::kTileN, C::kTileN / C::kWarps, columns.value>(
            staging, warp, 0, used_columns, is_in_slot, [&](int row) { return first + row * operand.stride_row; });
    };
    store(Columns<C::kHeadDim>{}, p.dk, p.sizes.head_dim, smem);
    store(Columns<C::kHeadDimV>{}, p.dv, p.sizes.head_dim_v, smem + C::kBytesK);
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::Config::kThreads, FA3_BLOCKS_PER_SM)
    FA3_KERNEL(const __grid_constant__ fa3::BwdParams p) {
    using C = fa3::Config;
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ fa3::KeyTile at;
    if (threadIdx.x == 0) fa3::find_key_tile<C::kTileM, C::kTileN>(p, blockIdx.x, at);
    __syncthreads();
    if (at.first_key < at.keys.slot) fa3::compute_tile<C>(p, smem, at);  // of a ragged batch the grid is an upper bound
}
