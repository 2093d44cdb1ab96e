// Schedule constants and shared memory of fwd_sm90. Layout and sizes: fwd_sm90.md.
#pragma once

#include "arch/slab.cuh"
#include "arch/sm90/pipeline.cuh"
#include "parts/mask.cuh"
#include "parts/work_channel.cuh"

namespace fa3 {

// `Row`: the variant row. Element, kHeadDim, kHeadDimV, kTileM, kTileN, kMask; kStagesQ, kStages: buffers of q, and of
// k and v; kStagedSlabs: slabs of O that are staged at a time; kTurns: warpgroups issue their products in turns, so
// that their exponentials spread out; kHalves: under a causal mask a half-hidden first block costs half the work.
template <class Row>
struct Schedule : Row {
    using typename Row::Element;
    static constexpr int kSlabs = slab_count<Element>(Row::kHeadDim);
    static constexpr int kSlabsV = slab_count<Element>(Row::kHeadDimV);
    static constexpr int kConsumers = Row::kTileM / 64;  // warpgroups, 64 query rows each
    static constexpr int kConsumerWarps = kConsumers * 4;
    static constexpr int kThreads = (kConsumers + 1) * 128;
    // 64 Ki registers a multiprocessor, one block on it; setmaxnreg takes multiples of 8.
    static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
    static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
    static_assert(kConsumers == 2 || kConsumers == 3, "two or three consumer warpgroups");
    static_assert(kSlabsV % Row::kStagedSlabs == 0, "O is staged in whole rounds");
    static_assert(!Row::kHalves || Row::kTileN == 128, "half a block is 64 keys");
};

template <class C>
struct alignas(1024) SharedStorage {
    using Element = typename C::Element;
    using Slot = WorkSlot<C::kConsumerWarps>;
    static constexpr int kSlab = kSlabColumns<Element>;
    Element q[C::kStagesQ][C::kSlabs * C::kTileM * kSlab];
    Element k[C::kStages][C::kSlabs * C::kTileN * kSlab];
    Element v[C::kStages][C::kSlabsV * C::kTileN * kSlab];
    Element o[C::kStagedSlabs * C::kTileM * kSlab];
    Pipeline<C::kStagesQ> q_pipe;
    Pipeline<C::kStages> k_pipe;
    Pipeline<C::kStages> v_pipe;
    Pipeline<2> work_pipe;
    Slot work_slots[2];
    float shifts[C::kTileM];  // of the rows of a recomputed tile (`parts/steady_softmax.cuh`)

    // Called by one thread.
    CUTE_DEVICE void init() {
        q_pipe.init(C::kConsumerWarps);
        k_pipe.init(C::kConsumerWarps);
        v_pipe.init(C::kConsumerWarps);
        work_pipe.init(C::kConsumers * 128);
        for (auto& slot : work_slots) slot = {};
    }
};

}  // namespace fa3
