// How a tile lies in shared memory: slabs of 64 elements (128 bytes) of the contiguous dimension, one slab after
// another, each slab `rows` x 128 bytes.
#pragma once

namespace fa3 {

constexpr int kSlab = 64;  // elements of a row of a slab
constexpr int kSlabRowBytes = 128;

}  // namespace fa3
