// Schedule constants and shared memory of bwd_sm90. Layout and sizes: bwd_sm90.md.
#pragma once

#include "arch/slab.cuh"
#include "arch/sm90/pipeline.cuh"
#include "parts/key_tile.cuh"

namespace fa3 {

// `Row`: the variant row. Element, kHeadDim, kHeadDimV, kTileM, kTileN; kStages: buffers of q and of dout.
template <class Row>
struct Schedule : Row {
    using typename Row::Element;
    static constexpr int kSlabs = slab_count<Element>(Row::kHeadDim);
    static constexpr int kSlabsV = slab_count<Element>(Row::kHeadDimV);
    static constexpr int kSlabsM = slab_count<Element>(Row::kTileM);
    static constexpr int kConsumers = Row::kTileN / 64;  // warpgroups, 64 keys each
    static constexpr int kConsumerWarps = kConsumers * 4;
    static constexpr int kThreads = (kConsumers + 1) * 128;
    // 64 Ki registers a multiprocessor, one block on it; setmaxnreg takes multiples of 8.
    static constexpr int kProducerRegisters = kConsumers == 2 ? 24 : 32;
    static constexpr int kConsumerRegisters = kConsumers == 2 ? 240 : 160;
    // Columns of dq that a warpgroup computes: half of them; of 96, as many as of 128.
    static constexpr int kColumns = Row::kHeadDim > 64 ? kSlabs * 32 : 32;
    static_assert(kConsumers == 2 || kConsumers == 3, "two or three consumer warpgroups");
};

template <class C>
struct alignas(1024) SharedStorage {
    using Element = typename C::Element;
    static constexpr int kSlab = kSlabColumns<Element>;
    Element k[C::kSlabs * C::kTileN * kSlab];
    Element v[C::kSlabsV * C::kTileN * kSlab];
    Element q[C::kStages][C::kSlabs * C::kTileM * kSlab];
    Element dout[C::kStages][C::kSlabsV * C::kTileM * kSlab];
    Element ds[2][C::kSlabsM * C::kTileN * kSlab];  // keys by queries
    float lse_log2[C::kStages][C::kTileM];
    float minus_delta[C::kStages][C::kTileM];
    Pipeline<C::kStages> q_pipe;     // q and the LSE
    Pipeline<C::kStages> dout_pipe;  // dout and delta
    Pipeline<2> ds_pipe;
    uint64_t keys_full;              // k and v
    KeyTile item;

    // Called by one thread.
    CUTE_DEVICE void init() {
        q_pipe.init(C::kConsumerWarps);
        dout_pipe.init(C::kConsumerWarps);
        ds_pipe.init(C::kConsumerWarps, C::kConsumerWarps);
        Barrier::init(&keys_full, 1);
    }
};

}  // namespace fa3
