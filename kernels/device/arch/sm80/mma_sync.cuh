// Warp matrix multiply: fragments from shared memory and the unrolled products of one warp.
//
// Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16". Lane l holds of a 16 x 8 accumulator the elements
// (l / 4, 2 (l % 4) + {0, 1}) and the same eight rows below.
#pragma once

#include "arch/sm80/instructions.cuh"
#include "parts/shared_tile.cuh"
#include "parts/slab.cuh"
#include "parts/tensor_core.cuh"

namespace fa3 {

constexpr int kMmaRows = 16;

// Where a lane's ldmatrix rows lie in a tile, at the tile's first row and column.
struct LaneOffsets {
    // Matrices: upper and lower eight rows, then the same of the next eight columns. A of a product, and B whose rows
    // are the inner dimension, transposed.
    CUTE_DEVICE static uint32_t rows_first(int lane) { return chunk_offset(lane % 16, lane / 16); }
    // Matrices: left and right eight columns, then the same of the next eight rows. B whose columns are the inner
    // dimension.
    CUTE_DEVICE static uint32_t columns_first(int lane) {
        return chunk_offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    }
};

// The address at a 16-column step: steps change bits that the permutation's lowest does not, so that one XOR does.
// `Rows`: of a whole slab.
template <int Rows>
CUTE_DEVICE uint32_t at_step(uint32_t address, int step) {
    constexpr int kStepsOfSlab = kSlab / 16;
    return (address ^ static_cast<uint32_t>(step % kStepsOfSlab * 32)) + step / kStepsOfSlab * Rows * kSlabRowBytes;
}

// s (RowTiles x 16 x N) = q . k (N x HeadDim)^T. `load_q(step, a)` gives the fragments of q; `k`: columns_first.
template <class Element, int RowTiles, int N, int HeadDim, class LoadQ>
CUTE_DEVICE void product_qk(LoadQ const& load_q, uint32_t k, float (&s)[RowTiles][N / 2]) {
    float const zeros[4] = {0.f, 0.f, 0.f, 0.f};
    CUTE_UNROLL
    for (int step = 0; step < HeadDim / kMmaK; ++step) {
        uint32_t a[RowTiles][4];
        load_q(step, a);
        uint32_t const address = at_step<N>(k, step);
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

// o (RowTiles x 16 x HeadDimV) += p (RowTiles x 16 x 16) . v (16 keys from `step` on of N x HeadDimV). `v`: rows_first.
template <class Element, int RowTiles, int N, int HeadDimV>
CUTE_DEVICE void product_pv(uint32_t const (&p)[RowTiles][4], uint32_t v, int step,
                            float (&o)[RowTiles][HeadDimV / 2]) {
    CUTE_UNROLL
    for (int column = 0; column < HeadDimV; column += 16) {
        uint32_t b[4];
        load_matrices_transposed(b, at_step<N>(v, column / 16) + step * kMmaK * kSlabRowBytes);
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
