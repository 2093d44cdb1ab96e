// Appends rows to a cache of keys and values, and rotates keys and queries (`params/append.h`). Design note: append.md.
#include <cutlass/cutlass.h>

#include "arch/sm80/element.cuh"
#include "params/append.h"

namespace fa3 {

using Element = FA3_ELEMENT;
constexpr int kTileM = FA3_TILE_M;
constexpr int kThreads = FA3_THREADS;
constexpr int kChunk = 8;  // elements of 16 bytes
static_assert(kTileM <= kThreads, "one thread a row finds its place");

// Neighbouring elements, accessed at once.
template <int Count>
struct alignas(2 * Count) Elements {
    uint16_t bits[Count];
};

template <int Count>
CUTE_DEVICE Elements<Count> load(Element const* from) {
    return *reinterpret_cast<Elements<Count> const*>(from);
}

template <int Count>
CUTE_DEVICE void to_floats(Elements<Count> const& elements, float (&x)[Count]) {
    float pair[2];
    if constexpr (Count == 1) {
        unpack(Element{}, elements.bits[0], pair);
        x[0] = pair[0];
    } else {
        CUTE_UNROLL
        for (int i = 0; i < Count; i += 2) {
            unpack(Element{}, elements.bits[i] | uint32_t(elements.bits[i + 1]) << 16, pair);
            x[i] = pair[0];
            x[i + 1] = pair[1];
        }
    }
}

// Where a row lies; offsets in elements, of head 0.
struct Place {
    fa3_i64 from[2];  // of k and v, or of q
    fa3_i64 to[2];    // negative: the row is not written
    int position;     // in the tables; negative: the row is not rotated
};

struct SequenceRow {
    int batch;
    int row;      // of the sequence
    bool exists;  // false between packed sequences and behind the last
};

// `flat`: index among the rows of all sequences.
CUTE_DEVICE SequenceRow find_row(int const* cu_seqlens, int batch, int seqlen, int flat) {
    if (cu_seqlens == nullptr) {
        int const sequence = flat / seqlen;
        return {sequence, flat - sequence * seqlen, true};
    }
    int first = 0;
    int end = batch;
    while (end - first > 1) {
        int const middle = first + (end - first) / 2;
        if (cu_seqlens[middle] <= flat) {
            first = middle;
        } else {
            end = middle;
        }
    }
    return {first, flat - cu_seqlens[first], cu_seqlens[first] <= flat && flat < cu_seqlens[first + 1]};
}

// First element of a row in a tensor that is not the cache.
CUTE_DEVICE fa3_i64 offset_of(Operand const& operand, bool packed, SequenceRow const& at, int flat) {
    return packed ? flat * operand.stride_row : at.batch * operand.stride_batch + at.row * operand.stride_row;
}

// `advance`: rows of the sequence before.
CUTE_DEVICE int position_of(AppendParams const& p, int batch, int advance) {
    if (p.rotary.cosines == nullptr) return -1;
    int const* const first = p.rotary.first_positions ? p.rotary.first_positions : p.cache_seqlens;
    fa3_i64 const position = fa3_i64(first[batch]) + advance;
    return 0 <= position && position < p.rotary.positions ? static_cast<int>(position) : -1;
}

// Rows of the cache that a sequence can have.
CUTE_DEVICE fa3_i64 room_of(AppendParams const& p) {
    return p.page_table ? fa3_i64(p.table_columns) * p.slot_rows : p.slot_rows;
}

CUTE_DEVICE Place place_of_new(AppendParams const& p, int flat) {
    bool const packed = p.cu_seqlens_new != nullptr;
    SequenceRow const at = find_row(p.cu_seqlens_new, p.batch, p.seqlen_new, flat);
    Place place = {{0, 0}, {-1, -1}, -1};
    if (!at.exists) return place;
    fa3_i64 const row = fa3_i64(p.cache_seqlens[at.batch]) + at.row;
    if (row < 0 || row >= room_of(p)) return place;
    int const column = static_cast<int>(row / p.slot_rows);  // 0 without pages
    int const slot = p.page_table        ? p.page_table[fa3_i64(at.batch) * p.table_stride + column]
                     : p.cache_batch_idx ? p.cache_batch_idx[at.batch]
                                         : at.batch;
    if (slot < 0 || slot >= p.slots) return place;
    fa3_i64 const slot_row = row - fa3_i64(column) * p.slot_rows;
    place.from[0] = offset_of(p.k, packed, at, flat);
    place.from[1] = offset_of(p.v, packed, at, flat);
    place.to[0] = slot * p.k_cache.stride_batch + slot_row * p.k_cache.stride_row;
    place.to[1] = slot * p.v_cache.stride_batch + slot_row * p.v_cache.stride_row;
    place.position = position_of(p, at.batch, at.row);
    return place;
}

CUTE_DEVICE Place place_of_query(AppendParams const& p, int flat) {
    bool const packed = p.cu_seqlens_q != nullptr;
    SequenceRow const at = find_row(p.cu_seqlens_q, p.batch, p.seqlen_q, flat);
    Place place = {{0, 0}, {0, 0}, -1};
    place.from[0] = offset_of(p.q, packed, at, flat);
    place.to[0] = offset_of(p.q_out, packed, at, flat);
    if (at.exists) place.position = position_of(p, at.batch, p.rotary.q_advances ? at.row : 0);
    return place;
}

// Count elements of a head, from a rotated column on. `head`: its first element.
template <int Count>
CUTE_DEVICE Elements<Count> rotate(RotaryParams const& rotary, Element const* head, int column, int position) {
    constexpr int kPairs = Count == 1 ? 1 : Count / 2;  // of interleaved columns
    auto const* const cosines = static_cast<Element const*>(rotary.cosines) + position * rotary.stride_cosines;
    auto const* const sines = static_cast<Element const*>(rotary.sines) + position * rotary.stride_sines;
    int const half = rotary.columns / 2;
    bool const second = rotary.interleaved ? column % 2 != 0 : column >= half;  // of its pair; of Count > 1 the first column
    float x[Count], partner[Count], cosine[Count], sine[Count];
    to_floats(load<Count>(head + column), x);
    if (!rotary.interleaved) {
        int const angle = second ? column - half : column;
        to_floats(load<Count>(head + (second ? angle : column + half)), partner);
        to_floats(load<Count>(cosines + angle), cosine);
        to_floats(load<Count>(sines + angle), sine);
    } else if constexpr (Count == 1) {
        to_floats(load<1>(head + (second ? column - 1 : column + 1)), partner);
        to_floats(load<1>(cosines + column / 2), cosine);
        to_floats(load<1>(sines + column / 2), sine);
    } else {
        float cosine_of_pair[kPairs], sine_of_pair[kPairs];
        to_floats(load<kPairs>(cosines + column / 2), cosine_of_pair);
        to_floats(load<kPairs>(sines + column / 2), sine_of_pair);
        CUTE_UNROLL
        for (int i = 0; i < Count; ++i) {
            partner[i] = x[i ^ 1];
            cosine[i] = cosine_of_pair[i / 2];
            sine[i] = sine_of_pair[i / 2];
        }
    }
    Elements<Count> rotated;
    CUTE_UNROLL
    for (int i = 0; i < Count; ++i) {
        bool const adds = rotary.interleaved && Count > 1 ? i % 2 != 0 : second;
        float const turned = x[i] * cosine[i] + (adds ? sine[i] : -sine[i]) * partner[i];
        rotated.bits[i] = static_cast<uint16_t>(pack(Element{}, turned, 0.f));
    }
    return rotated;
}

// Copies the block's rows, Count elements a thread at a time. `which`: of the offsets of a place. `rotary`: null for v.
template <int Count>
CUTE_DEVICE void copy_rows(Place const (&places)[kTileM], int rows, int which, Operand const& from, Operand const& to,
                           int heads, int columns, RotaryParams const* rotary) {
    int const groups = columns / Count;
    int const groups_of_row = heads * groups;
    for (int item = threadIdx.x; item < rows * groups_of_row; item += kThreads) {
        int const row = item / groups_of_row;
        int const of_row = item - row * groups_of_row;
        int const head = of_row / groups;
        int const column = (of_row - head * groups) * Count;
        Place const& place = places[row];
        if (place.to[which] < 0) continue;
        auto const* const source = static_cast<Element const*>(from.data) + place.from[which] + head * from.stride_head;
        auto* const target = static_cast<Element*>(to.data) + place.to[which] + head * to.stride_head + column;
        bool const rotates = rotary != nullptr && place.position >= 0 && column < rotary->columns;
        *reinterpret_cast<Elements<Count>*>(target) =
            rotates ? rotate<Count>(*rotary, source, column, place.position) : load<Count>(source + column);
    }
}

CUTE_DEVICE bool is_aligned(Operand const& operand) {
    return (operand.stride_batch | operand.stride_row | operand.stride_head) % kChunk == 0 &&
           reinterpret_cast<fa3_u64>(operand.data) % 16 == 0;
}

// Whether a thread can load 16 bytes of the tables, and every pair of columns is in whole chunks.
CUTE_DEVICE bool is_aligned(RotaryParams const& rotary) {
    return ((rotary.stride_cosines | rotary.stride_sines) % kChunk == 0 && rotary.columns % (2 * kChunk) == 0 &&
            (reinterpret_cast<fa3_u64>(rotary.cosines) | reinterpret_cast<fa3_u64>(rotary.sines)) % 16 == 0);
}

CUTE_DEVICE void write_lengths(AppendParams const& p) {
    fa3_i64 const room = room_of(p);
    for (int batch = threadIdx.x; batch < p.batch; batch += kThreads) {
        int const added =
            p.cu_seqlens_new ? p.cu_seqlens_new[batch + 1] - p.cu_seqlens_new[batch] : p.seqlen_new;
        fa3_i64 const length = fa3_i64(p.cache_seqlens[batch]) + added;
        p.seqlens[batch] = static_cast<int>(min(max(length, fa3_i64(0)), room));
    }
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::kThreads) FA3_KERNEL(const __grid_constant__ fa3::AppendParams p) {
    using namespace fa3;
    __shared__ Place places[kTileM];
    int const block = static_cast<int>(blockIdx.x);
    bool const of_q = block >= p.blocks_new;
    int const first = (of_q ? block - p.blocks_new : block) * kTileM;
    int const rows = min((of_q ? p.rows_q : p.rows_new) - first, kTileM);
    int const thread = static_cast<int>(threadIdx.x);
    if (thread < rows) places[thread] = of_q ? place_of_query(p, first + thread) : place_of_new(p, first + thread);
    if (block == 0) write_lengths(p);
    __syncthreads();
    CUTE_NO_UNROLL
    for (int which = 0; which < (of_q ? 1 : 2); ++which) {  // one copy of the code for k, v and q
        bool const of_v = which == 1;
        Operand const& from = of_q ? p.q : of_v ? p.v : p.k;
        Operand const& to = of_q ? p.q_out : of_v ? p.v_cache : p.k_cache;
        int const heads = of_q ? p.heads_q : p.heads_kv;
        int const columns = of_v ? p.head_dim_v : p.head_dim;
        RotaryParams const* const rotary = of_v || p.rotary.cosines == nullptr ? nullptr : &p.rotary;
        if (columns % kChunk == 0 && is_aligned(from) && is_aligned(to) && (rotary == nullptr || is_aligned(*rotary))) {
            copy_rows<kChunk>(places, rows, which, from, to, heads, columns, rotary);
        } else {
            copy_rows<1>(places, rows, which, from, to, heads, columns, rotary);
        }
    }
}
