// Scores of keys by queries: a lane holds two keys, and of the queries those of accumulator columns 8 i + 2 (lane % 4) + j.
#pragma once

#include "arch/slab.cuh"
#include "parts/key_tile.cuh"

namespace fa3 {

// Sets P of one key of a lane to 0 where a query does not see the key; `first`: the lane's first query.
template <int Scores>
CUTE_DEVICE void hide_queries(float (&p)[Scores], int half, QueryRange sees, int first) {
    int const begin = sees.begin - first;
    int const end = sees.end - first;
    CUTE_UNROLL
    for (int i = 0; i < Scores / 4; ++i) {
        CUTE_UNROLL
        for (int j = 0; j < 2; ++j) {
            int const query = i * 8 + j;
            if (query < begin || query >= end) p[i * 4 + half * 2 + j] = 0.f;
        }
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
