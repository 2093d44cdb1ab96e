// Stores by the tensor copy engine (TMA): accumulators of a warp -> staging slabs in shared memory -> tensor.
#pragma once

#include <cute/arch/copy_sm90.hpp>
#include <cute/arch/copy_sm90_tma.hpp>
#include <cutlass/arch/barrier.h>

#include "arch/slab.cuh"
#include "arch/sm80/element.cuh"
#include "parts/ragged.cuh"

namespace fa3 {

// First of a warp's rows in a tensor.
struct RowPlace {
    MapOrigin origin;
    int row;  // counts positions, or (position, head) pairs
    int position;
    int head;
    int column;
};

// Writes a warp's 16 rows of accumulators (16 x Columns) to a tensor, StagedSlabs slabs of columns at a time.
// `staging`: StagedSlabs slabs of TileRows rows, 16 for each warp. Writes nothing unless `valid` and to.row <
// row_end(). Returns before the stores are done: the next call waits for them.
template <int Columns, int StagedSlabs, int TileRows, class Element, class RowEnd>
CUTE_DEVICE void store_rows(TensorMap const& map, Element* staging, float const (&o)[Columns / 2], int warp,
                            RowPlace const& to, bool valid, RowEnd const& row_end) {
    constexpr int kSlab = kSlabColumns<Element>;
    constexpr int kRoundColumns = StagedSlabs * kSlab;
    int const lane = cutlass::canonical_lane_idx();
    int const matrix_row = (lane / 8 % 2) * 8 + lane % 8;  // stmatrix: lane l addresses row l % 8 of matrix l / 8
    auto* const rows = staging + warp * 16 * kSlab;
    CUTE_UNROLL
    for (int first = 0; first < slab_count<Element>(Columns); first += StagedSlabs) {
        // This lane's earlier stores have left the buffer. All lanes wait: a branch here costs the main loop 2 to 5 %
        // (`arch/sm80/predicated_store.cuh`).
        cute::tma_store_wait<0>();
        __syncwarp();
        CUTE_UNROLL
        for (int c = first * kSlab; c < min(first * kSlab + kRoundColumns, Columns); c += 16) {
            // chunk_offset in signed arithmetic: unsigned, the addresses compile to other registers (`kernels/NOTES.md`).
            int const chunk = c % kSlab / 8 + lane / 16;
            auto* target = reinterpret_cast<unsigned char*>(rows + (c / kSlab - first) * TileRows * kSlab) +
                           matrix_row * kSlabRowBytes + ((chunk ^ (matrix_row % 8)) * 16);
            float const* r = &o[c / 2];
            Element const e{};
            cute::SM90_U32x4_STSM_N::copy(pack(e, r[0], r[1]), pack(e, r[2], r[3]), pack(e, r[4], r[5]),
                                          pack(e, r[6], r[7]), *reinterpret_cast<cute::uint128_t*>(target));
        }
        cutlass::arch::fence_view_async_shared();
        __syncwarp();
        if (lane == 0 && valid && to.row < row_end()) {
            CUTE_UNROLL
            for (int slab = 0; slab < StagedSlabs; ++slab) {
                cute::SM90_TMA_STORE_5D::copy(&map, rows + slab * TileRows * kSlab,
                                              to.column + (first + slab) * kSlab, to.head, to.origin.row + to.position,
                                              to.origin.origin, to.origin.batch);
            }
            cute::tma_store_arrive();
        }
    }
}

}  // namespace fa3
