// Layout of a tile in shared memory: slabs, one behind another, each `rows` x 128 bytes of neighbouring columns.
//
// Within a row of a slab the eight 16-byte chunks are permuted: chunk c of row r lies at c ^ (r % 8). This is TMA's
// 128-byte swizzle. Eight threads that fill a row, and eight rows that ldmatrix or stmatrix accesses at one chunk,
// touch all 32 banks once.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

constexpr int kSlabRowBytes = 128;
constexpr int kChunkBytes = 16;
constexpr int kSlabChunks = kSlabRowBytes / kChunkBytes;

// Columns of a slab, and of a chunk.
template <class Element>
constexpr int kSlabColumns = kSlabRowBytes / static_cast<int>(sizeof(Element));
template <class Element>
constexpr int kChunkColumns = kChunkBytes / static_cast<int>(sizeof(Element));

// Slabs of a row of `columns` elements.
template <class Element>
constexpr int slab_count(int columns) {
    return (columns + kSlabColumns<Element> - 1) / kSlabColumns<Element>;
}

// Offset of a chunk in its slab, in bytes.
CUTE_DEVICE uint32_t chunk_offset(int row, int chunk) {
    return static_cast<uint32_t>(row * kSlabRowBytes + ((chunk ^ (row % 8)) * kChunkBytes));
}

}  // namespace fa3
