// Tiles in shared memory for mma.sync: copied in by cp.async, read by ldmatrix, both without bank conflicts.
//
// Within a row of a slab the eight 16-byte chunks are permuted: chunk c lies at c ^ (row % 8). So eight threads that
// fill a row, and eight rows that ldmatrix reads at one chunk, touch all 32 banks once. Addresses are those of the
// shared window, in bytes.
#pragma once

#include "arch/sm80/instructions.cuh"
#include "parts/slab.cuh"

namespace fa3 {

constexpr int kChunk = 8;  // elements of 16 bytes
constexpr int kChunksOfSlab = kSlab / kChunk;

CUTE_DEVICE uint32_t chunk_offset(int row, int chunk) {
    return static_cast<uint32_t>(row * kSlabRowBytes + ((chunk ^ (row % 8)) * 16));
}

// A row of a tensor; `used` is false when it must not be read and zeros stand for it.
template <class Element>
struct SourceRow {
    Element const* data;
    bool used;
};

// Starts the copies of Rows rows of Columns elements, of which `columns` are there; the rest become zeros. All Threads
// of the block call it. `source(r)`: the row that becomes row r of the tile; r rises by Threads / 8.
template <int Rows, int Columns, int Threads, class Source>
CUTE_DEVICE void copy_tile(uint32_t to, int columns, Source const& source) {
    constexpr int kRowsAtOnce = Threads / kChunksOfSlab;
    static_assert(Rows % kRowsAtOnce == 0 && kRowsAtOnce % 8 == 0, "whole passes over the rows");
    constexpr int kSlabs = (Columns + kSlab - 1) / kSlab;
    int const chunk = threadIdx.x % kChunksOfSlab;
    int const first = threadIdx.x / kChunksOfSlab;
    uint32_t const target = to + chunk_offset(first, chunk);
    CUTE_UNROLL
    for (int pass = 0; pass < Rows; pass += kRowsAtOnce) {
        auto const row = source(first + pass);
        CUTE_UNROLL
        for (int slab = 0; slab < kSlabs; ++slab) {
            int const column = slab * kSlab + chunk * kChunk;
            int const bytes = min(max(columns - column, 0), kChunk) * 2;
            if (Columns % kSlab == 0 || column < Columns) {
                copy_chunk(target + (slab * Rows + pass) * kSlabRowBytes, row.data + column, row.used ? bytes : 0);
            }
        }
    }
}

}  // namespace fa3
