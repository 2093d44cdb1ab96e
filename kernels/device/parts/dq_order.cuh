// Order of a tile of dq in the workspace: accumulators of 16 x 8 elements, one behind another, row by row; within one,
// the registers of its 32 lanes (`arch/sm80/mma_sync.cuh`): 4 x 32 floats. A warp then adds 128 bytes at once.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

constexpr int kAccumulatorFloats = 16 * 8;

// First float of the accumulator of rows 16 * row_tile on and columns 8 * column_tile on.
CUTE_DEVICE int accumulator_offset(int row_tile, int column_tile, int columns) {
    return (row_tile * (columns / 8) + column_tile) * kAccumulatorFloats;
}

// Place of columns 8 * column_tile to 8 * column_tile + 7 of a row: the even ones are four floats, the odd ones four
// floats kOddColumns further.
constexpr int kOddColumns = 32;
CUTE_DEVICE int row_offset(int row, int column_tile, int columns) {
    return accumulator_offset(row / 16, column_tile, columns) + row % 16 / 8 * 2 * kOddColumns + row % 8 * 4;
}

}  // namespace fa3
