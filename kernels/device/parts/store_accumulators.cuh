// Stores of 16-bit rows straight from accumulators, 8 bytes a lane; four lanes write 32 bytes of a row.
#pragma once

#include <cute/config.hpp>

#include "arch/sm80/element.cuh"

namespace fa3 {

// Stores four elements, or as many as there are columns.
template <class Element>
CUTE_DEVICE void store_four(Element* to, uint2 pairs, int columns) {
    if (columns >= 4) {
        *reinterpret_cast<uint2*>(to) = pairs;
        return;
    }
    CUTE_UNROLL
    for (int i = 0; i < 4; ++i) {
        if (i < columns) to[i].bits = static_cast<uint16_t>((i < 2 ? pairs.x : pairs.y) >> i % 2 * 16);
    }
}

// Stores `scale` times the accumulators of a warp, 16 rows by Count * 2 columns. `row_of(r)`: address of row r's first
// column, null for a row that is not stored. `columns`: that exist from there on. Neighbouring lanes exchange pairs, so that
// each has four columns of one accumulator.
template <class Element, int Count, class RowOf>
CUTE_DEVICE void store_accumulators(float const (&o)[Count], float scale, int lane, int columns, RowOf const& row_of) {
    bool const odd = lane % 2;
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
        Element* const row = row_of(half * 8 + lane / 4);
        CUTE_UNROLL
        for (int i = 0; i < Count / 4; i += 2) {
            float const* const x = &o[4 * i + 2 * half];
            uint32_t const first = pack(Element{}, x[0] * scale, x[1] * scale);
            uint32_t const second = pack(Element{}, x[4] * scale, x[5] * scale);
            uint32_t const got = __shfl_xor_sync(0xFFFFFFFF, odd ? first : second, 1);
            int const column = (i + odd) * 8 + lane % 4 / 2 * 4;
            if (row == nullptr || column >= columns) continue;
            store_four(row + column, odd ? uint2{got, second} : uint2{first, got}, columns - column);
        }
    }
}

}  // namespace fa3
