// Loads by cp.async: rows of a tensor -> a tile of slabs in shared memory (`arch/slab.cuh`), without bank conflicts.
// Addresses are those of the shared window, in bytes.
#pragma once

#include "arch/slab.cuh"
#include "arch/sm80/instructions.cuh"
#include "parts/operand_rows.cuh"

namespace fa3 {

// A row of a tensor. A row that is not `used` is not read; zeros take its place.
template <class Element>
struct SourceRow {
    Element const* data;
    bool used;
};

// Starts the copies of Rows rows of Columns elements; `columns` of them exist, the others become zeros. All Threads of
// the block call it. `source(r)`: SourceRow of row r of the tile; r rises by Threads / 8.
template <class Element, int Rows, int Columns, int Threads, class Source>
CUTE_DEVICE void copy_tile(uint32_t to, int columns, Source const& source) {
    constexpr int kSlab = kSlabColumns<Element>;
    constexpr int kChunk = kChunkColumns<Element>;
    constexpr int kRowsAtOnce = Threads / kSlabChunks;
    static_assert(Rows % kRowsAtOnce == 0 && kRowsAtOnce % 8 == 0, "whole passes over the rows");
    int const chunk = threadIdx.x % kSlabChunks;
    int const first = threadIdx.x / kSlabChunks;
    uint32_t const target = to + chunk_offset(first, chunk);
    CUTE_UNROLL
    for (int pass = 0; pass < Rows; pass += kRowsAtOnce) {
        SourceRow<Element> const row = source(first + pass);
        CUTE_UNROLL
        for (int slab = 0; slab < slab_count<Element>(Columns); ++slab) {
            int const column = slab * kSlab + chunk * kChunk;
            int const bytes = min(max(columns - column, 0), kChunk) * static_cast<int>(sizeof(Element));
            if (Columns % kSlab == 0 || column < Columns) {
                copy_chunk(target + (slab * Rows + pass) * kSlabRowBytes, row.data + column, row.used ? bytes : 0);
            }
        }
    }
}

// Starts the copy of one block of TileN rows of K or V. `kLast`: the block may reach past the last key, whose rows are
// not read then: they may hold NaN, and 0 * NaN is NaN. Pages that no query of the sequence sees are not read either:
// the row of `first_key`, the first seen one, takes the place of their rows.
template <class Element, int TileN, int Columns, int Threads, bool kLast>
CUTE_DEVICE void copy_key_block(SequenceParams const& sequences, StorageParams const& storage, WorkItem const& item,
                                Operand const& operand, KeyRows<Element> const& rows, uint32_t to, int block, int first_key) {
    using Row = SourceRow<Element>;
    int const first_row = block * TileN;
    if (sequences.page_table == nullptr) {
        auto const* const data = rows.data + first_row * operand.stride_row;
        copy_tile<Element, TileN, Columns, Threads>(to, rows.columns, [&](int row) {
            return Row{data + row * operand.stride_row, !kLast || first_row + row < item.seqlen_k};
        });
    } else {
        int const* const pages =
            sequences.page_table + static_cast<fa3_i64>(item.batch) * storage.page_table_stride;
        copy_tile<Element, TileN, Columns, Threads>(to, rows.columns, [&](int row) {
            int const key = max(first_row + row, first_key);
            if (kLast && key >= item.seqlen_k) return Row{rows.data, false};
            int const index =
                static_cast<int>(static_cast<uint32_t>(key) / static_cast<uint32_t>(storage.page_size));
            int const within = key - index * storage.page_size;
            return Row{rows.data + pages[index] * operand.stride_batch + within * operand.stride_row, true};
        });
    }
}

}  // namespace fa3
