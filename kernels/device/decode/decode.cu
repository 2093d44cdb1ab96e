// Attention of few query rows over many keys, on every compute capability from 8.0 on: the keys are divided among
// thread blocks and, within one, among warps. Design note: decode.md.
//
// Compiled once per variant, whose row arrives as FA3_* macros. One kernel serves every mask.
#include <cutlass/cutlass.h>

#include "arch/sm80/mma_sync.cuh"
#include "decode/decode_merge.cuh"
#include "decode/decode_order.cuh"
#include "params/decode.h"
#include "parts/load_cp_async.cuh"
#include "parts/mask.cuh"
#include "parts/online_softmax.cuh"
#include "parts/operand_rows.cuh"
#include "parts/query_row.cuh"
#include "parts/scale_sign.cuh"
#include "parts/softcap.cuh"

extern __shared__ __align__(128) unsigned char smem[];

namespace fa3 {

struct Config {
    using Element = FA3_ELEMENT;
    static constexpr int kHeadDim = FA3_HEAD_DIM;
    static constexpr int kHeadDimV = FA3_HEAD_DIM_V;
    static constexpr int kWarps = FA3_WARPS;
    static constexpr int kStages = FA3_STAGES;             // buffers of a warp, for its rows of K and V in a step
    static constexpr MaskClass kMask = MaskClass::kLocal;  // absent parameters reduce it to the other masks

    static constexpr int kThreads = kWarps * 32;
    static constexpr int kTileM = kMmaRows;
    static constexpr int kWarpKeys = kMmaK;
    static constexpr int kTileN = kWarps * kWarpKeys;
    static constexpr int kSlabs = slab_count<Element>(kHeadDim);
    static constexpr int kSlabsV = slab_count<Element>(kHeadDimV);
    static constexpr uint32_t kBytesQ = kSlabs * kTileM * kSlabRowBytes;
    static constexpr uint32_t kBytesK = kSlabs * kWarpKeys * kSlabRowBytes;
    static constexpr uint32_t kBytesV = kSlabsV * kWarpKeys * kSlabRowBytes;
    static constexpr uint32_t kBytesStage = kBytesK + kBytesV;
    // O of all warps is joined half a tile of rows at a time, in rounds of as many columns as have a thread for each
    // four.
    static constexpr int kHalfRows = kTileM / 2;
    static constexpr int kRowThreads = kThreads / kHalfRows;
    static constexpr int kRoundColumns = kRowThreads * 4;
    static constexpr int kRounds = kHeadDimV / kRoundColumns;
    static constexpr int kColumns = kHeadDimV / kRowThreads;  // of a thread in one row
    // Whether the last steps of a unit start the copies of the next one. Runs out of registers at head_dim 256.
    static constexpr bool kCopiesNext = kHeadDimV < 256;
    static constexpr int kPassesAtOnce = kHeadDimV < 256 ? 4 : 1;  // over the rows of a step
    static constexpr int kPartsAtOnce = 16;                        // loaded together
    static constexpr uint32_t kBytesJoin = kWarps * kHalfRows * kRoundColumns * sizeof(float);
    static_assert(2 * kBytesQ + kWarps * kStages * kBytesStage + kBytesJoin == FA3_SMEM_BYTES,
                  "the variant row states another size");
    static_assert(kHeadDim % 16 == 0 && kHeadDimV % kRoundColumns == 0, "whole products and rounds");
    static_assert(kThreads / kTileM == kSlabChunks, "the threads load one row of q each");
};

// A unit and what this thread block computes of it. In shared memory: the main loop is short of registers.
struct BlockWork {
    using Element = Config::Element;
    DecodeUnit unit;
    WorkItem item;
    int part_begin;
    int part_end;
    int step_begin;  // of these parts
    int step_end;
    int slot;
    int first_key;      // that any query of the sequence sees; the rows before it may hold anything
    KeyRange unmasked;  // keys that every row of the tile sees
    KeyRows<Element> keys;
    KeyRows<Element> values;

    CUTE_DEVICE bool exists() const { return unit.batch >= 0; }
    CUTE_DEVICE bool is_whole() const { return part_begin == 0 && part_end == unit.parts; }
    CUTE_DEVICE int steps() const { return step_end - step_begin; }
};

struct SharedState {
    BlockWork works[2];   // the unit at hand and the next one
    BlockWork first_cut;  // the first unit, if other thread blocks compute parts of it, too, and another unit follows
    RowSums sums[Config::kWarps][Config::kTileM];
    Shares shares;
    int step;         // from which on the next unit is searched
    bool is_last[2];  // whether this thread block stored the last part of its first and of its last unit
};

CUTE_DEVICE void fill_work(DecodeParams const& p, DecodeUnit const& unit, Shares const& shares, BlockWork& work) {
    using C = Config;
    work.unit = unit;
    int const begin = shares.begin(blockIdx.x) - unit.first;
    int const end = shares.begin(blockIdx.x + 1) - unit.first;
    work.part_begin = unit.part_count(max(begin, 0));
    work.part_end = unit.part_count(min(end, unit.steps));
    int const of_sequence = p.tiles.tiles_m * p.sizes.heads_kv;
    bool const one_each = of_sequence * static_cast<fa3_i64>(p.sizes.batch) <= p.partial.slots;
    work.slot = one_each ? unit.batch * of_sequence + unit.index : shares.owner(unit.first);

    SequenceParams const& at = p.sequences;
    WorkItem item{};
    item.batch = unit.batch;
    item.seqlen_q = sequence_length(unit.batch, at.cu_seqlens_q, at.seqused_q, p.sizes.seqlen_q);
    item.seqlen_k = sequence_length(unit.batch, at.cu_seqlens_k, at.seqused_k, p.sizes.seqlen_k);
    item.start_q = at.cu_seqlens_q ? at.cu_seqlens_q[unit.batch] : 0;
    item.start_k = at.cu_seqlens_k ? at.cu_seqlens_k[unit.batch] : 0;
    int const tiles = (item.seqlen_q * p.tiles.pack_gqa + C::kTileM - 1) / C::kTileM;
    int const head_kv = unit.index / tiles;
    item.head = head_kv * p.tiles.pack_gqa;
    item.first_row = (unit.index - head_kv * tiles) * C::kTileM;
    int const first = item.first_row / p.tiles.pack_gqa;
    int const last = min(item.seqlen_q - 1, (item.first_row + C::kTileM - 1) / p.tiles.pack_gqa);
    KeyRange const seen = visible_keys<C::kMask>(p.mask, 0, item.seqlen_q, item.seqlen_k);
    KeyRange const end_seen = visible_keys<C::kMask>(p.mask, item.seqlen_q - 1, item.seqlen_q, item.seqlen_k);
    item.block_begin =
        seen.begin < end_seen.end ? seen.begin / C::kTileN : (max(item.seqlen_k, 0) + C::kTileN - 1) / C::kTileN;
    item.block_end = item.block_begin + unit.steps;
    work.item = item;
    work.step_begin = item.block_begin + work.part_begin * unit.part_steps;
    work.step_end = min(item.block_end, item.block_begin + work.part_end * unit.part_steps);
    work.first_key = seen.begin;
    work.unmasked = {visible_keys<C::kMask>(p.mask, last, item.seqlen_q, item.seqlen_k).begin,
                     visible_keys<C::kMask>(p.mask, first, item.seqlen_q, item.seqlen_k).end};
    if (p.scale.softcap_scale != 0.f) work.unmasked = {0, 0};  // rare: capped scores take the masked path throughout
    work.keys = key_rows<C::Element>(at, p.sizes, p.k, item, 0, p.sizes.head_dim);
    work.values = key_rows<C::Element>(at, p.sizes, p.v, item, 0, p.sizes.head_dim_v);
}

// Writes the next unit of this thread block, from step `state.step` on, to `work`. All lanes of one warp call it.
CUTE_DEVICE void find_next(DecodeParams const& p, SharedState& state, BlockWork& work) {
    DecodeOrder<Config::kTileM, Config::kTileN> const order{p};
    int const lane = cutlass::canonical_lane_idx();
    Shares const shares = state.shares;
    int const begin = shares.begin(blockIdx.x);
    int const end = shares.begin(blockIdx.x + 1);
    int step = state.step;
    bool found = false;
    while (!found && step < end) {
        DecodeUnit const unit = order.find(step);
        found = unit.part_count(max(begin - unit.first, 0)) < unit.part_count(min(end - unit.first, unit.steps));
        step = unit.first + unit.steps;
        if (found && lane == 0) fill_work(p, unit, shares, work);
    }
    __syncwarp();
    if (lane != 0) return;
    state.step = step;
    if (!found) work.unit.batch = -1;
}

// Bytes that a lane copies of its chunk of each slab.
template <int Slabs>
struct ChunkBytes {
    int bytes[Slabs];

    CUTE_DEVICE ChunkBytes(int columns, int chunk) {
        using Element = Config::Element;
        CUTE_UNROLL
        for (int slab = 0; slab < Slabs; ++slab) {
            int const column = slab * kSlabColumns<Element> + chunk * kChunkColumns<Element>;
            bytes[slab] = min(max(columns - column, 0), kChunkColumns<Element>) * static_cast<int>(sizeof(Element));
        }
    }
};

// Copies a chunk of every slab of a row. `to`, `from`: of the chunk in the first slab; `Rows`: of a slab.
template <int Rows, int Slabs>
CUTE_DEVICE void copy_chunks(uint32_t to, Config::Element const* from, ChunkBytes<Slabs> const& chunks, bool used) {
    CUTE_UNROLL
    for (int slab = 0; slab < Slabs; ++slab) {
        copy_chunk(to + slab * Rows * kSlabRowBytes, from + slab * kSlabColumns<Config::Element>,
                   used ? chunks.bytes[slab] : 0);
    }
}

// Where a key lies: its page, and its row there; without pages, row of the sequence. Negative rows are not read.
struct KeyPlace {
    int page;
    int row;
};

// The place of a warp's key of this lane, of the first kWarpKeys lanes, in a step whose keys start at `first_row`. Keys
// behind the last one are not read: they may hold NaN, and 0 * NaN is NaN. `first_key` takes the place of those before
// it.
CUTE_DEVICE KeyPlace find_key(DecodeParams const& p, BlockWork const& work, int first_row) {
    int const lane = cutlass::canonical_lane_idx();
    int const key = max(first_row + lane, work.first_key);
    if (lane >= Config::kWarpKeys || key >= work.item.seqlen_k) return {0, -1};
    if (p.sequences.page_table == nullptr) return {0, key};
    int const index = static_cast<int>(static_cast<uint32_t>(key) / static_cast<uint32_t>(p.storage.page_size));
    int const page =
        p.sequences.page_table[static_cast<fa3_i64>(work.item.batch) * p.storage.page_table_stride + index];
    return {page, key - index * p.storage.page_size};
}

// Starts the copies of a warp's rows of K and V in one step. What lies in shared memory is read once, in front of them.
CUTE_DEVICE void copy_keys(DecodeParams const& p, BlockWork const& work, uint32_t to, KeyPlace const& place) {
    using C = Config;
    using Element = C::Element;
    int const lane = cutlass::canonical_lane_idx();
    int const chunk = lane % kSlabChunks;
    Element const* const k = work.keys.data + chunk * kChunkColumns<Element>;
    Element const* const v = work.values.data + chunk * kChunkColumns<Element>;
    ChunkBytes<C::kSlabs> const k_bytes(work.keys.columns, chunk);
    ChunkBytes<C::kSlabsV> const v_bytes(work.values.columns, chunk);
#pragma unroll(C::kPassesAtOnce)
    for (int pass = 0; pass < C::kWarpKeys; pass += 32 / kSlabChunks) {
        int const row = pass + lane / kSlabChunks;
        int const page = __shfl_sync(0xFFFFFFFF, place.page, row);
        int const within = __shfl_sync(0xFFFFFFFF, place.row, row);
        bool const used = within >= 0;
        uint32_t const at = to + chunk_offset(row, chunk);
        fa3_i64 const k_offset = used ? page * p.k.stride_batch + within * p.k.stride_row : 0;
        copy_chunks<C::kWarpKeys>(at, k + k_offset, k_bytes, used);
        fa3_i64 const v_offset = used ? page * p.v.stride_batch + within * p.v.stride_row : 0;
        copy_chunks<C::kWarpKeys>(at + C::kBytesK, v + v_offset, v_bytes, used);
    }
}

// Starts the copies of the rows of q. Rows behind the last one become zeros.
CUTE_DEVICE void copy_queries(DecodeParams const& p, BlockWork const& work, uint32_t to) {
    using C = Config;
    auto const* const queries =
        sequence_rows<C::Element const>(p.q, work.item.batch, p.sequences.cu_seqlens_q != nullptr, work.item.start_q);
    int const row = threadIdx.x / kSlabChunks;
    int const chunk = threadIdx.x % kSlabChunks;
    bool const used = work.item.first_row + row < row_count(p.tiles, work.item);
    QueryRow const at = query_row(p.tiles, work.item, used ? work.item.first_row + row : 0);
    copy_chunks<C::kTileM>(
        to + chunk_offset(row, chunk),
        queries + at.position * p.q.stride_row + at.head * p.q.stride_head + chunk * kChunkColumns<C::Element>,
        ChunkBytes<C::kSlabs>(p.sizes.head_dim, chunk), used);
}

CUTE_DEVICE void fold_scale_sign(unsigned char* q, float scale) {
    ScaleSign const sign(scale);
    auto* const pairs = reinterpret_cast<uint32_t*>(q);
    for (uint32_t i = threadIdx.x; i < Config::kBytesQ / 4; i += Config::kThreads) pairs[i] = sign.apply(pairs[i]);
    __syncthreads();
}

// Caps and masks a warp's scores of the keys from `first_key` on.
CUTE_DEVICE void mask_tile(DecodeParams const& p, WorkItem const& item, int first_key,
                           float (&s)[Config::kWarpKeys / 2]) {
    int const lane = cutlass::canonical_lane_idx();
    KeyRange visible[2];
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
        int const row = item.first_row + lane / 4 + 8 * half;
        visible[half] = visible_keys<Config::kMask>(p.mask, row / p.tiles.pack_gqa, item.seqlen_q, item.seqlen_k);
    }
    if (p.scale.softcap_scale != 0.f) cap_scores(s, p.scale.softcap_scale);
    mask_scores<Config::kMask>(s, first_key + lane % 4 * 2, visible);
}

// This thread's row in a half of the tile, and its columns in a round.
CUTE_DEVICE int half_row() { return threadIdx.x / Config::kRowThreads; }
CUTE_DEVICE int column_of(int round) { return round * Config::kRoundColumns + threadIdx.x % Config::kRowThreads * 4; }

// Place of a column in the buffer of one round, permuted so that neighbouring rows use different banks.
CUTE_DEVICE int staged(int warp, int row, int column) {
    return (warp * Config::kHalfRows + row) * Config::kRoundColumns + (column ^ row % 4 * 8);
}

// Shares a warp's row sums of one part, ahead of join_warps.
CUTE_DEVICE void share_sums(SharedState& state, OnlineSoftmax const& softmax) {
    int const lane = cutlass::canonical_lane_idx();
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
        float const sum = quad_sum(softmax.row_sum[half]);
        if (lane % 4 == 0)
            state.sums[threadIdx.x / 32][lane / 4 + half * Config::kHalfRows] = {softmax.row_max[half], sum};
    }
}

// Joins the sums of all warps over one part, in one half of the rows.
CUTE_DEVICE RowPart<Config::kColumns> join_warps(SharedState& state, float* staging,
                                                 float const (&o)[1][Config::kHeadDimV / 2], int half,
                                                 float scale_log2) {
    using C = Config;
    int const lane = cutlass::canonical_lane_idx();
    int const warp = threadIdx.x / 32;
    RowPart<C::kColumns> joined;
    float weights[C::kWarps];
    CUTE_UNROLL
    for (int round = 0; round < C::kRounds; ++round) {
        CUTE_UNROLL
        for (int i = 0; i < C::kRoundColumns; i += 8) {
            float const* const pair = &o[0][round * C::kRoundColumns / 2 + i / 2 + 2 * half];
            *reinterpret_cast<float2*>(staging + staged(warp, lane / 4, i + lane % 4 * 2)) = float2{pair[0], pair[1]};
        }
        __syncthreads();
        if (round == 0) {
            RowSums sums[C::kWarps];
            CUTE_UNROLL
            for (int w = 0; w < C::kWarps; ++w) sums[w] = state.sums[w][half_row() + half * C::kHalfRows];
            float most = sums[0].reference;
            CUTE_UNROLL
            for (int w = 1; w < C::kWarps; ++w) most = fmaxf(most, sums[w].reference);
            joined.row = {most, 0.f};
            CUTE_UNROLL
            for (int w = 0; w < C::kWarps; ++w) {
                weights[w] = weight_of(sums[w].reference, most, scale_log2);
                joined.row.sum = fmaf(sums[w].sum, weights[w], joined.row.sum);
            }
        }
        float* const columns = joined.o + round * 4;
        CUTE_UNROLL
        for (int i = 0; i < 4; ++i) columns[i] = 0.f;
        CUTE_UNROLL
        for (int w = 0; w < C::kWarps; ++w) {
            float4 const own =
                *reinterpret_cast<float4 const*>(staging + staged(w, half_row(), threadIdx.x % C::kRowThreads * 4));
            columns[0] = fmaf(own.x, weights[w], columns[0]);
            columns[1] = fmaf(own.y, weights[w], columns[1]);
            columns[2] = fmaf(own.z, weights[w], columns[2]);
            columns[3] = fmaf(own.w, weights[w], columns[3]);
        }
        __syncthreads();
    }
    return joined;
}

// First row of a part in the workspace.
CUTE_DEVICE fa3_i64 partial_row(DecodeParams const& p, BlockWork const& work, int part) {
    return (static_cast<fa3_i64>(work.slot) * p.partial.parts + part) * p.partial.rows;
}

CUTE_DEVICE void store_part(DecodeParams const& p, BlockWork const& work, int index, int tile_row,
                            RowPart<Config::kColumns> const& part) {
    using C = Config;
    fa3_i64 const row = partial_row(p, work, index) + tile_row;
    float* const out = p.partial.out + row * C::kHeadDimV;
    CUTE_UNROLL
    for (int round = 0; round < C::kRounds; ++round) {
        float const* const own = part.o + round * 4;
        *reinterpret_cast<float4*>(out + column_of(round)) = float4{own[0], own[1], own[2], own[3]};
    }
    if (column_of(0) == 0)
        *reinterpret_cast<float2*>(p.partial.sums + 2 * row) = float2{part.row.reference, part.row.sum};
}

// Normalises and stores `Count` columns of a row of the unit from `column` on, and its LSE. Lanes in fours have the
// same row.
template <int Count>
CUTE_DEVICE void store_columns(DecodeParams const& p, BlockWork const& work, int tile_row, RowSums const& sums,
                               float const (&o)[Count], int const (&columns)[Count / 4]) {
    using Element = Config::Element;
    int const row = work.item.first_row + tile_row;
    bool const used = row < row_count(p.tiles, work.item);
    QueryRow const at = query_row(p.tiles, work.item, used ? row : 0);
    float const scale_log2 = positive_scale(p.scale.scale_log2);
    float const reference = sums.reference == -infinity() ? -infinity() : sums.reference * scale_log2;
    float const sink = p.sink ? p.sink[at.head] * kLog2E : -infinity();
    // finish_row adds the shares of four lanes; each of them holds the whole sum.
    RowResult const result = finish_row(reference, threadIdx.x % 4 == 0 ? sums.sum : 0.f, sink);
    if (!used) return;
    bool const packed = p.sequences.cu_seqlens_q != nullptr;
    Element* const out = sequence_rows<Element>(p.out, work.item.batch, packed, work.item.start_q) +
                         at.position * p.out.stride_row + at.head * p.out.stride_head;
    CUTE_UNROLL
    for (int four = 0; four < Count / 4; ++four) {
        float const* const own = o + four * 4;
        int const column = columns[four];
        uint2 const pairs{pack(Element{}, own[0] * result.factor, own[1] * result.factor),
                          pack(Element{}, own[2] * result.factor, own[3] * result.factor)};
        if (column + 4 <= p.sizes.head_dim_v) {
            *reinterpret_cast<uint2*>(out + column) = pairs;
        } else {
            uint32_t const halves[4] = {pairs.x, pairs.x >> 16, pairs.y, pairs.y >> 16};
            CUTE_UNROLL
            for (int i = 0; i < 4; ++i) {
                if (column + i < p.sizes.head_dim_v) out[column + i] = {static_cast<uint16_t>(halves[i])};
            }
        }
    }
    if (columns[0] != 0) return;
    float* const lse = p.lse.data + (packed ? fa3_i64(work.item.start_q) : work.item.batch * p.lse.stride_batch);
    lse[at.head * p.lse.stride_head + at.position] = result.lse;
}

CUTE_DEVICE void store_unit(DecodeParams const& p, BlockWork const& work, int halves,
                            RowPart<Config::kColumns> const (&total)[2]) {
    int columns[Config::kRounds];
    CUTE_UNROLL
    for (int round = 0; round < Config::kRounds; ++round) columns[round] = column_of(round);
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
        if (half == halves) break;
        store_columns(p, work, half * Config::kHalfRows + half_row(), total[half].row, total[half].o, columns);
    }
}

// Joins the parts of a unit that this and other thread blocks stored. A thread takes four columns of a row at a time.
CUTE_DEVICE void join_parts(DecodeParams const& p, BlockWork const& work) {
    using C = Config;
    constexpr int kFours = C::kHeadDimV / 4;
    int const rows = min(C::kTileM, row_count(p.tiles, work.item) - work.item.first_row);
    float const scale_log2 = positive_scale(p.scale.scale_log2);
    int const parts = work.unit.parts;
    CUTE_NO_UNROLL
    for (int begin = 0; begin < rows * kFours; begin += C::kThreads) {
        int const row = (begin + threadIdx.x) / kFours;
        int const column = threadIdx.x % kFours * 4;
        fa3_i64 const first = partial_row(p, work, 0) + min(row, rows - 1);
        auto const load = [&](int index) {
            fa3_i64 const at = first + index * p.partial.rows;
            float2 const sums = *reinterpret_cast<float2 const*>(p.partial.sums + 2 * at);
            float4 const own = *reinterpret_cast<float4 const*>(p.partial.out + at * C::kHeadDimV + column);
            return RowPart<4>{{sums.x, sums.y}, {own.x, own.y, own.z, own.w}};
        };
        RowPart<4> total;
        total.clear();
        // As many loads at once as there are parts in most calls; the last part again in the place of those that lack.
        CUTE_NO_UNROLL
        for (int index = 0; index < parts; index += C::kPartsAtOnce) {
            RowPart<4> loaded[C::kPartsAtOnce];
            CUTE_UNROLL
            for (int i = 0; i < C::kPartsAtOnce; ++i) loaded[i] = load(min(index + i, parts - 1));
            CUTE_UNROLL
            for (int i = 0; i < C::kPartsAtOnce; ++i) {
                if (index + i < parts) total.join(loaded[i], scale_log2);
            }
        }
        int const columns[1] = {column};
        store_columns(p, work, row, total.row, total.o, columns);
    }
}

// Counts this thread block's parts of a unit. Returns whether all are stored; the counter is 0 again then.
CUTE_DEVICE bool arrive(DecodeParams const& p, BlockWork const& work) {
    fa3_u32* const arrived = p.partial.arrived + work.slot;
    fa3_u32 const own = static_cast<fa3_u32>(work.part_end - work.part_begin);
    bool const is_last = atomicAdd(arrived, own) + own == static_cast<fa3_u32>(work.unit.parts);
    if (is_last) *arrived = 0;
    return is_last;
}

// Joins those of up to two units whose last part this thread block stored.
CUTE_DEVICE void finish_cut_units(DecodeParams const& p, SharedState& state, BlockWork const& last) {
    __syncthreads();
    bool const first_is_cut = state.first_cut.exists();
    bool const last_is_cut = last.exists() && !last.is_whole();
    if (!first_is_cut && !last_is_cut) return;
    if (threadIdx.x == 0) {
        __threadfence();  // for all threads, whose stores the barrier ordered before it
        state.is_last[0] = first_is_cut && arrive(p, state.first_cut);
        state.is_last[1] = last_is_cut && arrive(p, last);
        __threadfence();
    }
    __syncthreads();
    if (state.is_last[0]) join_parts(p, state.first_cut);
    if (state.is_last[1]) join_parts(p, last);
}

// Places in shared memory, as addresses of the shared window: two tiles of q, the buffers of each warp, and those in
// which the results of the warps are joined.
CUTE_DEVICE uint32_t smem_base() { return static_cast<uint32_t>(__cvta_generic_to_shared(smem)); }
CUTE_DEVICE uint32_t query_buffer(int which) { return smem_base() + which * Config::kBytesQ; }
CUTE_DEVICE uint32_t key_buffer(int stage) {
    return smem_base() + 2 * Config::kBytesQ + (threadIdx.x / 32 * Config::kStages + stage) * Config::kBytesStage;
}
CUTE_DEVICE float* staging() {
    return reinterpret_cast<float*>(smem + 2 * Config::kBytesQ +
                                    Config::kWarps * Config::kStages * Config::kBytesStage);
}

CUTE_DEVICE int next_stage(int stage) { return stage + 1 == Config::kStages ? 0 : stage + 1; }

// Computes the unit of works[which], and finds the next one, whose copies it starts in its last steps.
// `stage`: of its first step in the ring of buffers of a warp; becomes that of the next unit.
// `copied`: whether the unit before did so for this one. Returns the same for the next.
CUTE_DEVICE bool compute_unit(DecodeParams const& p, SharedState& state, int& stage, int which, bool copied) {
    using C = Config;
    using Element = C::Element;
    BlockWork const& work = state.works[which];
    BlockWork const& next = state.works[which ^ 1];
    WorkItem const& item = work.item;
    int const lane = cutlass::canonical_lane_idx();
    int const warp = threadIdx.x / 32;
    int const steps = work.steps();
    auto const find = [&](BlockWork const& of, int index) {
        return find_key(p, of, (of.step_begin + index) * C::kTileN + warp * C::kWarpKeys);
    };

    if (!copied) {
        copy_queries(p, work, query_buffer(which));
        commit_copies();
        int at = stage;
        CUTE_UNROLL
        for (int index = 0; index < C::kStages; ++index) {
            if (index < steps) copy_keys(p, work, key_buffer(at), find(work, index));
            commit_copies();
            at = next_stage(at);
        }
    }
    if (warp == 0) find_next(p, state, state.works[which ^ 1]);
    wait_copies_but<C::kStages - 1>();
    __syncthreads();
    if (p.scale.scale_log2 <= 0.f) fold_scale_sign(smem + which * C::kBytesQ, p.scale.scale_log2);
    int const steps_of_next = C::kCopiesNext && next.exists() && steps >= C::kStages ? next.steps() : 0;
    // The place of the keys that the next step copies, looked up a step before: the table of pages is in memory.
    auto const find_ahead = [&](int index) {
        int const behind = index - steps;  // in the next unit
        return behind < 0 ? find(work, index) : behind < steps_of_next ? find(next, behind) : KeyPlace{0, -1};
    };
    KeyPlace ahead = find_ahead(C::kStages);

    auto const load_q = [&](int step, uint32_t (&a)[1][4]) {
        load_matrices(a[0], at_step<C::kTileM>(query_buffer(which) + LaneOffsets::rows_first(opaque_lane()), step));
    };
    int const rows = row_count(p.tiles, item) - item.first_row;
    int const halves = rows <= C::kHalfRows ? 1 : 2;  // of the tile, that have rows
    RowPart<C::kColumns> total[2];                    // one row of each half
    total[0].clear();
    total[1].clear();
    KeyRange const& unmasked = work.unmasked;
    int const& part_steps = work.unit.part_steps;
    int const first_warp_key = work.step_begin * C::kTileN + warp * C::kWarpKeys;
    int index = 0;
    CUTE_NO_UNROLL
    for (int part_index = work.part_begin; part_index < work.part_end; ++part_index) {
        OnlineSoftmax softmax(positive_scale(p.scale.scale_log2));
        float o[1][C::kHeadDimV / 2];
        CUTE_UNROLL
        for (int i = 0; i < C::kHeadDimV / 2; ++i) o[0][i] = 0.f;
        int const end = min(steps, (part_index + 1 - work.part_begin) * part_steps);
        CUTE_NO_UNROLL
        for (; index < end; ++index) {
            wait_copies_but<C::kStages - 1>();
            __syncwarp();
            uint32_t const k_rows = key_buffer(stage);
            int const first_key = first_warp_key + index * C::kTileN;
            float s[1][C::kWarpKeys / 2];
            product_qk<Element, 1, C::kWarpKeys, C::kHeadDim>(load_q,
                                                              k_rows + LaneOffsets::columns_first(opaque_lane()), s);
            if (first_key < unmasked.begin || first_key + C::kWarpKeys > unmasked.end) {
                mask_tile(p, item, first_key, s[0]);
            }
            if (softmax.update_max(s[0])) softmax.rescale(o[0]);
            softmax.exponentiate(s[0]);
            uint32_t a[1][4];
            to_operand<Element>(s[0], a[0]);
            product_pv<Element, 1, C::kWarpKeys, C::kHeadDimV>(
                a, k_rows + C::kBytesK + LaneOffsets::rows_first(opaque_lane()), 0, o);
            __syncwarp();
            int const behind = index + C::kStages - steps;  // in the next unit
            if (behind < steps_of_next) copy_keys(p, behind < 0 ? work : next, key_buffer(stage), ahead);
            if (index == 0 && steps_of_next != 0) copy_queries(p, next, query_buffer(which ^ 1));
            commit_copies();
            ahead = find_ahead(index + 1 + C::kStages);
            stage = next_stage(stage);
        }
        share_sums(state, softmax);
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            if (half == halves) break;
            int const row = half * C::kHalfRows + half_row();
            auto const part = join_warps(state, staging(), o, half, positive_scale(p.scale.scale_log2));
            if (work.is_whole()) {
                total[half].join(part, positive_scale(p.scale.scale_log2));
            } else if (row < rows) {
                store_part(p, work, part_index, row, part);
            }
        }
    }
    if (work.is_whole()) store_unit(p, work, halves, total);
    __syncthreads();  // the work is read to the end
    return steps_of_next != 0;
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::Config::kThreads, FA3_BLOCKS_PER_SM)
    FA3_KERNEL(const __grid_constant__ fa3::DecodeParams p) {
    using namespace fa3;
    __shared__ SharedState state;
    if (threadIdx.x < 32) {
        Shares const shares(DecodeOrder<Config::kTileM, Config::kTileN>{p}.total());
        if (threadIdx.x == 0) {
            state.shares = shares;
            state.step = shares.begin(blockIdx.x);
            state.works[1].unit.batch = -1;
            state.first_cut.unit.batch = -1;
        }
        __syncwarp();
        find_next(p, state, state.works[0]);
    }
    __syncthreads();
    bool copied = false;
    int stage = 0;
    int which = 0;
    // Only the first and the last unit can have parts of other thread blocks. They are joined behind all others: an
    // arrival takes microseconds, in which nothing would be copied.
    for (; state.works[which].exists(); which ^= 1) {
        copied = compute_unit(p, state, stage, which, copied);
        if (threadIdx.x == 0 && !state.works[which].is_whole() && state.works[which ^ 1].exists()) {
            state.first_cut = state.works[which];
        }
    }
    finish_cut_units(p, state, state.works[which ^ 1]);
}
