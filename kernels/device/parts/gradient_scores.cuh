// Scores in accumulators, by which gradients are computed: a lane holds two rows, and columns 8 i + 2 (lane % 4) + j of them.
// Transposed scores have keys as rows, and queries as columns.
#pragma once

#include "arch/slab.cuh"
#include "arch/sm90/uniform.cuh"
#include "parts/key_tile.cuh"

namespace fa3 {

// Sets P to 0 outside of columns [begin, end) of one of the two rows of a lane, counted from the lane's first column.
template <int Scores>
CUTE_DEVICE void hide_columns(float (&p)[Scores], int row, int begin, int end) {
    CUTE_UNROLL
    for (int i = 0; i < Scores / 4; ++i) {
        CUTE_UNROLL
        for (int j = 0; j < 2; ++j) {
            int const column = i * 8 + j;
            if (column < begin || column >= end) p[i * 4 + row * 2 + j] = 0.f;
        }
    }
}

// Hides the queries that do not see the keys of a lane. `thread`: of the warpgroups that hold the keys of the tile.
template <int Scores>
CUTE_DEVICE void hide_queries(float (&p)[Scores], MaskParams const& mask, KeyTile const& item, int first_query, int thread) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
        int const here = opaque(thread);  // computed anew, for registers are short
        int const key = item.first_key + here / 32 * 16 + half * 8 + here % 32 / 4;
        QueryRange const sees = item.queries_of_key(mask, key);
        int const first = first_query + here % 4 * 2;
        hide_columns(p, half, sees.begin - first, sees.end - first);
    }
}

// The statistics of the queries of one lane (`parts/query_tiles.cuh`).
template <int TileM>
CUTE_DEVICE float2 const* statistics_of_lane(float const (&rows)[TileM], int lane) {
    return reinterpret_cast<float2 const*>(rows + lane % 4 * (TileM / 4));
}

// Overwrites rows of a tile of k or v that no query of the sequence sees with zeros: they may hold anything, and 0 * NaN is
// NaN. Called by `threads` threads, of which this is number `thread`.
template <int Slabs, int TileN, class Element>
CUTE_DEVICE void clear_unseen_rows(Element* tile, KeyTile const& item, int thread, int threads) {
    constexpr int kSlab = kSlabColumns<Element>;
    CUTE_UNROLL
    for (int slab = 0; slab < Slabs; ++slab) {
        auto* const pairs = reinterpret_cast<uint32_t*>(tile + slab * TileN * kSlab);
        for (int i = thread; i < TileN * kSlab / 2; i += threads) {
            int const key = item.first_key + i / (kSlab / 2);
            if (key < item.seen.begin || key >= item.seen.end) pairs[i] = 0;
        }
    }
}

}  // namespace fa3
