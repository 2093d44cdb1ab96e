// Stores of accumulators by way of shared memory, 16 bytes a thread; eight threads write 128 bytes of a row.
#pragma once

#include "arch/slab.cuh"
#include "arch/sm80/mma_sync.cuh"

namespace fa3 {

// Writes RowTiles x 16 rows of Columns accumulators to columns `first_column` on of `staging`: slabs of TileM rows. `group`:
// of those rows.
template <class Element, int TileM, int RowTiles, int Columns>
CUTE_DEVICE void stage_rows(unsigned char* staging, float const (&o)[RowTiles][Columns / 2], int group,
                            int first_column = 0) {
    constexpr int kSlab = kSlabColumns<Element>;
    constexpr int kChunk = kChunkColumns<Element>;
    int const lane = cutlass::canonical_lane_idx();
    CUTE_UNROLL
    for (int t = 0; t < RowTiles; ++t) {
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            int const row = group * RowTiles * kMmaRows + t * kMmaRows + half * 8 + lane / 4;
            CUTE_UNROLL
            for (int i = 0; i < Columns; i += kChunk) {
                int const column = first_column + i;
                auto* const slab = staging + column / kSlab * TileM * kSlabRowBytes;
                float const* const pair = &o[t][i / 2 + 2 * half];
                *reinterpret_cast<uint32_t*>(slab + chunk_offset(row, column % kSlab / kChunk) + lane % 4 * 4) =
                    pack(Element{}, pair[0], pair[1]);
            }
        }
    }
    __syncwarp();
}

// Stores a warp's WarpRows staged rows to columns `first_column` on of a tensor that has `columns`. `is_in_tensor(r)`:
// whether row r of the tile exists, false from one row on; `target(r)`: address of its column `first_column`.
template <class Element, int TileM, int WarpRows, int Columns, class IsInTensor, class Target>
CUTE_DEVICE void store_staged_rows(unsigned char* staging, int warp, int first_column, int const& columns,
                                   IsInTensor const& is_in_tensor, Target const& target) {
    constexpr int kSlab = kSlabColumns<Element>;
    constexpr int kChunk = kChunkColumns<Element>;
    int const lane = cutlass::canonical_lane_idx();
    int const chunk = lane % kSlabChunks;
    CUTE_NO_UNROLL
    for (int pass = 0; pass < WarpRows; pass += 32 / kSlabChunks) {
        int const row = warp * WarpRows + pass + lane / kSlabChunks;
        if (!is_in_tensor(row)) break;
        Element* const to = target(row);
        CUTE_UNROLL
        for (int slab = 0; slab < slab_count<Element>(Columns); ++slab) {
            int const column = slab * kSlab + chunk * kChunk;
            if (column < Columns && first_column + column + kChunk <= columns) {
                *reinterpret_cast<uint4*>(to + column) = *reinterpret_cast<uint4 const*>(
                    staging + slab * TileM * kSlabRowBytes + chunk_offset(row, chunk));
            }
        }
    }
    // Columns behind the last whole chunk, one element a lane: the memory behind a row may belong to another tensor.
    int const rest = columns - columns % kChunk - first_column;
    if (columns % kChunk == 0 || rest < 0 || rest >= Columns) return;
    auto const* const slab = staging + rest / kSlab * TileM * kSlabRowBytes;
    CUTE_NO_UNROLL
    for (int r = 0; r < WarpRows; ++r) {
        int const row = warp * WarpRows + r;
        if (!is_in_tensor(row)) break;
        Element* const to = target(row);
        auto const* const from = reinterpret_cast<Element const*>(slab + chunk_offset(row, rest % kSlab / kChunk));
        if (lane < columns % kChunk) to[rest + lane] = from[lane];
    }
}

}  // namespace fa3
