// Ring buffers between producer and consumers: pairs of mbarriers and the position in them.
#pragma once

#include <cutlass/arch/barrier.h>

namespace fa3 {

using Barrier = cutlass::arch::ClusterBarrier;
using TransactionBarrier = cutlass::arch::ClusterTransactionBarrier;

// Position in a ring buffer. `phase`: the parity for which a consumer waits.
template <int Stages>
struct Cursor {
    uint32_t stage = 0;
    uint32_t phase = 0;

    CUTE_DEVICE static Cursor of(int index) {
        return {static_cast<uint32_t>(index) % Stages, static_cast<uint32_t>(index) / Stages % 2};
    }
    CUTE_DEVICE void advance() {
        if constexpr (Stages == 1) {
            phase ^= 1;
        } else if (++stage == Stages) {
            stage = 0;
            phase ^= 1;
        }
    }
};

// The producer, or its TMA load, completes `full`; the consumers' releases complete `empty`.
template <int Stages>
struct Pipeline {
    uint64_t full[Stages];
    uint64_t empty[Stages];

    CUTE_DEVICE void init(uint32_t releases, uint32_t publishers = 1) {
        for (int stage = 0; stage < Stages; ++stage) {
            Barrier::init(&full[stage], publishers);
            Barrier::init(&empty[stage], releases);
        }
    }
    // The inverted phase of a fresh barrier counts as complete, so the producer's first pass does not wait.
    CUTE_DEVICE void wait_empty(Cursor<Stages> at) { Barrier::wait(&empty[at.stage], at.phase ^ 1); }
    CUTE_DEVICE void wait_full(Cursor<Stages> at) { Barrier::wait(&full[at.stage], at.phase); }
    // Whether wait_full would return at once. Polled early, it hides the latency of the barrier.
    CUTE_DEVICE bool is_full(Cursor<Stages> at) { return Barrier::test_wait(&full[at.stage], at.phase, 1u); }
    CUTE_DEVICE void expect(Cursor<Stages> at, uint32_t bytes) {
        TransactionBarrier::arrive_and_expect_tx(&full[at.stage], bytes);
    }
    CUTE_DEVICE void publish(Cursor<Stages> at) { Barrier::arrive(&full[at.stage]); }
    // One arrival per warp, after all reads of the warp.
    CUTE_DEVICE void release(Cursor<Stages> at) {
        if (cutlass::canonical_lane_idx() == 0) Barrier::arrive(&empty[at.stage]);
    }
    // One arrival per lane, for slots that lanes read with plain loads.
    CUTE_DEVICE void release_lane(Cursor<Stages> at) { Barrier::arrive(&empty[at.stage]); }
};

}  // namespace fa3
