// Matrix products of one warp (mma.sync) over tiles in shared memory; 16-bit elements.
//
// Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16". Lane l holds elements (l / 4, 2 (l % 4) + {0, 1}) of
// a 16 x 8 accumulator, and the same columns eight rows below.
#pragma once

#include "arch/fragment.cuh"
#include "arch/slab.cuh"
#include "arch/sm80/instructions.cuh"

namespace fa3 {

constexpr int kMmaRows = 16;

// Offset in a slab of the row whose address a lane gives to ldmatrix.
struct LaneOffsets {
    // Order of the four matrices: upper and lower eight rows, then the same of the next eight columns. For A, and,
    // transposed, for a B whose rows are the inner dimension.
    CUTE_DEVICE static uint32_t rows_first(int lane) { return chunk_offset(lane % 16, lane / 16); }
    // Left and right eight columns, then the same of the next eight rows. For a B whose columns are the inner
    // dimension.
    CUTE_DEVICE static uint32_t columns_first(int lane) {
        return chunk_offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    }
};

// Address `step` times 16 columns further. `address` has the swizzle of its row; one XOR applies it to the new chunk,
// as a step changes no bit that a lane's own chunk uses. `Rows`: of a slab.
template <int Rows>
CUTE_DEVICE uint32_t at_step(uint32_t address, int step) {
    constexpr int kStepBytes = 2 * kChunkBytes;
    constexpr int kSlabSteps = kSlabRowBytes / kStepBytes;
    return (address ^ static_cast<uint32_t>(step % kSlabSteps * kStepBytes)) + step / kSlabSteps * Rows * kSlabRowBytes;
}

// s (RowTiles x 16 x N) = q . k (N x HeadDim)^T. `load_q(step, a)` loads the fragments of q; `k`: address of the first of
// the N rows plus LaneOffsets::columns_first. `Rows`: of a slab of k.
template <class Element, int RowTiles, int N, int HeadDim, int Rows = N, class LoadQ>
CUTE_DEVICE void product_qk(LoadQ const& load_q, uint32_t k, float (&s)[RowTiles][N / 2]) {
    float const zeros[4] = {0.f, 0.f, 0.f, 0.f};
    CUTE_UNROLL
    for (int step = 0; step < HeadDim / kMmaK; ++step) {
        uint32_t a[RowTiles][4];
        load_q(step, a);
        uint32_t const address = at_step<Rows>(k, step);
        CUTE_UNROLL
        for (int key = 0; key < N; key += 16) {
            uint32_t b[4];
            load_matrices(b, address + key * kSlabRowBytes);
            CUTE_UNROLL
            for (int t = 0; t < RowTiles; ++t) {
                float* const left = &s[t][key / 2];
                float* const right = left + 4;
                multiply(Element{}, left, a[t], b[0], b[1], step == 0 ? zeros : left);
                multiply(Element{}, right, a[t], b[2], b[3], step == 0 ? zeros : right);
            }
        }
    }
}

// o (RowTiles x 16 x Columns) += p (RowTiles x 16 x 16) . v (16 rows from 16 * step on, of N rows; columns from
// 16 * first on). `v`: address of the tile plus LaneOffsets::rows_first.
template <class Element, int RowTiles, int N, int Columns>
CUTE_DEVICE void product_pv(uint32_t const (&p)[RowTiles][4], uint32_t v, int step, float (&o)[RowTiles][Columns / 2],
                            int first = 0) {
    CUTE_UNROLL
    for (int column = 0; column < Columns; column += 16) {
        uint32_t b[4];
        load_matrices_transposed(b, at_step<N>(v, first + column / 16) + step * kMmaK * kSlabRowBytes);
        CUTE_UNROLL
        for (int t = 0; t < RowTiles; ++t) {
            float* const left = &o[t][column / 2];
            float* const right = left + 4;
            multiply(Element{}, left, p[t], b[0], b[1], left);
            multiply(Element{}, right, p[t], b[2], b[3], right);
        }
    }
}

}  // namespace fa3
