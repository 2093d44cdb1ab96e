// Producer-consumer plumbing: circular-buffer cursors, mbarrier pairs, and loads that complete on an mbarrier.
#pragma once

#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>
#include <cutlass/arch/barrier.h>

#include "params/fwd.h"
#include "parts/slab.cuh"

namespace fa3 {

using Barrier = cutlass::arch::ClusterBarrier;
using TransactionBarrier = cutlass::arch::ClusterTransactionBarrier;

// Position in a circular buffer of `Stages` slots. `phase` is the parity that a consumer waits for.
template <int Stages>
struct Cursor {
    uint32_t stage = 0;
    uint32_t phase = 0;

    CUTE_DEVICE void advance() {
        if constexpr (Stages == 1) {
            phase ^= 1;
        } else if (++stage == Stages) {
            stage = 0;
            phase ^= 1;
        }
    }
};

// `full` is completed by the producer, `empty` by the consumers' releases.
template <int Stages>
struct Pipeline {
    uint64_t full[Stages];
    uint64_t empty[Stages];

    CUTE_DEVICE void init(uint32_t releases) {
        for (int stage = 0; stage < Stages; ++stage) {
            Barrier::init(&full[stage], 1);
            Barrier::init(&empty[stage], releases);
        }
    }
    // A fresh barrier has completed the phase before its first: a producer's first pass does not wait.
    CUTE_DEVICE void wait_empty(Cursor<Stages> at) { Barrier::wait(&empty[at.stage], at.phase ^ 1); }
    CUTE_DEVICE void wait_full(Cursor<Stages> at) { Barrier::wait(&full[at.stage], at.phase); }
    // Whether wait_full would return at once. Asked early, it takes the barrier's latency out of the way.
    CUTE_DEVICE bool is_full(Cursor<Stages> at) { return Barrier::test_wait(&full[at.stage], at.phase, 1u); }
    CUTE_DEVICE void expect(Cursor<Stages> at, uint32_t bytes) {
        TransactionBarrier::arrive_and_expect_tx(&full[at.stage], bytes);
    }
    CUTE_DEVICE void publish(Cursor<Stages> at) { Barrier::arrive(&full[at.stage]); }
    // One lane speaks for its warp, whose own reads are over; every consumer warp counts once.
    CUTE_DEVICE void release(Cursor<Stages> at) {
        if (cutlass::canonical_lane_idx() == 0) Barrier::arrive(&empty[at.stage]);
    }
    // Every lane for itself, where plain loads read the slot.
    CUTE_DEVICE void release_lane(Cursor<Stages> at) { Barrier::arrive(&empty[at.stage]); }
};

// Coordinates of a sequence's rows in a tensor map: see FwdParams.
struct RowOrigin {
    int first;  // coordinate of row 0
    int origin;
    int batch;  // or the wraps of a ragged map
};

CUTE_DEVICE RowOrigin row_origin(bool ragged, int start, int length, int batch) {
    if (!ragged) return {0, 0, batch};
    return {kRaggedRows - length, start + length, kRaggedRows};
}

// Loads a box of rows, slab by slab, from slab `first_slab` on. `smem`: where its first row goes; `slab_rows`: rows of
// a whole slab there.
template <int Slabs, class Element>
CUTE_DEVICE void load_box(TensorMap const& map, uint64_t* full, cute::TMA::CacheHintSm90 hint, Element* smem,
                          int slab_rows, RowOrigin at, int row, int head, int first_slab = 0) {
    CUTE_UNROLL
    for (int slab = 0; slab < Slabs; ++slab) {
        cute::SM90_TMA_LOAD_5D::copy(&map, full, static_cast<uint64_t>(hint), smem + slab * slab_rows * kSlab,
                                     (first_slab + slab) * kSlab, head, at.first + row, at.origin, at.batch);
    }
}

}  // namespace fa3
