// Order of a tile of dq in the workspace: accumulators of 16 x 8 elements, one behind another, row by row. Within one, the
// registers of its 32 lanes (`arch/sm80/mma_sync.cuh`), 4 x 32 floats, or, where four floats can be added at once, the four
// registers of each lane, 32 x 4 floats. A warp then adds 128 bytes at once, or 512.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

constexpr int kAccumulatorFloats = 16 * 8;

// First float of the accumulator of rows 16 * row_tile on and columns 8 * column_tile on.
CUTE_DEVICE int accumulator_offset(int row_tile, int column_tile, int columns) {
    return (row_tile * (columns / 8) + column_tile) * kAccumulatorFloats;
}

}  // namespace fa3
