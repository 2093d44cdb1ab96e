// Schedule constants and shared memory of bwd_queries_sm90. Layout and sizes: bwd_queries_sm90.md.
#pragma once

#include "arch/slab.cuh"
#include "arch/sm90/pipeline.cuh"
#include "parts/query_block.cuh"

namespace fa3 {

// `Row`: the variant row. Element, kHeadDim, kHeadDimV, kTileM, kTileN.
template <class Row>
struct Schedule : Row {
    using typename Row::Element;
    static constexpr int kSlabs = slab_count<Element>(Row::kHeadDim);
    static constexpr int kSlabsV = slab_count<Element>(Row::kHeadDimV);
    static constexpr int kConsumers = 2;  // warpgroups, 64 queries each
    static constexpr int kConsumerWarps = kConsumers * 4;
    static constexpr int kScores = Row::kTileN / 2;  // of a consumer thread
    static constexpr int kBoxRows = 64;              // of the maps of q and dout
    static constexpr int kStages = 2;                // buffers of k; one of v
    static constexpr int kThreads = (kConsumers + 1) * 128;
    // Of 168 a thread at launch (`bwd_sm90_storage.cuh`).
    static constexpr int kConsumerRegisters = 240;
    static constexpr int kProducerRegisters = 24;
    static_assert(Row::kTileM == kConsumers * 64 && Row::kTileN == 64, "128 queries by 64 keys");
};

// A tile of queries, for all other warps.
struct Work {
    QueryBlock tile;
    int steps;            // -1: no tile is left
    int steps_before;     // of this block's tiles before it
    uint32_t phase;       // of the barrier of the tiles
    uint32_t query_phase;  // of those of q and dout
};

template <class C>
struct alignas(1024) SharedStorage {
    using Element = typename C::Element;
    static constexpr int kSlab = kSlabColumns<Element>;
    Element q[C::kSlabs * C::kTileM * kSlab];
    Element dout[C::kSlabsV * C::kTileM * kSlab];
    Element k[C::kStages][C::kSlabs * C::kTileN * kSlab];
    Element v[C::kSlabsV * C::kTileN * kSlab];
    Pipeline<1> q_pipe;  // q and dout
    Pipeline<C::kStages> k_pipe;
    Pipeline<1> v_pipe;
    Pipeline<1> work_pipe;
    Work work;  // at a fixed address, so that no register holds it
    Work next;  // of the warp that finds it

    // Called by one thread.
    CUTE_DEVICE void init() {
        q_pipe.init(C::kConsumerWarps);
        k_pipe.init(C::kConsumerWarps);
        v_pipe.init(C::kConsumerWarps);
        work_pipe.init(C::kConsumerWarps);
    }
};

}  // namespace fa3
