// Schedule constants and shared memory of bwd_keys_sm90. Layout and sizes: bwd_keys_sm90.md.
#pragma once

#include "arch/slab.cuh"
#include "bwd/key_work.cuh"

namespace fa3 {

// `Row`: the variant row. Element, kHeadDim, kHeadDimV, kTileM, kTileN, kStages.
template <class Row>
struct Schedule : Row {
    using typename Row::Element;
    static constexpr int kSlabs = slab_count<Element>(Row::kHeadDim);
    static constexpr int kSlabsV = slab_count<Element>(Row::kHeadDimV);
    static constexpr int kScores = Row::kTileM * Row::kTileN / 128;  // of a consumer thread
    static constexpr int kThreads = 384;
    // Of 168 a thread at launch (`bwd_sm90_storage.cuh`).
    static constexpr int kConsumerRegisters = 240;
    static constexpr int kProducerRegisters = 24;
    static_assert(Row::kTileM == 64 && Row::kTileN == 64, "a warpgroup holds 64 keys by 64 queries");
};

template <class C>
struct alignas(1024) SharedStorage {
    using Element = typename C::Element;
    static constexpr int kSlab = kSlabColumns<Element>;
    Element k[C::kSlabs * C::kTileN * kSlab];
    Element v[C::kSlabsV * C::kTileN * kSlab];
    Element q[C::kStages][C::kSlabs * C::kTileM * kSlab];
    Element dout[C::kStages][C::kSlabsV * C::kTileM * kSlab];
    float4 weights[2][C::kScores / 4][128];  // P, with the derivative of the cap; a thread of one warpgroup to that of the other
    float lse_log2[C::kStages][C::kTileM];
    float minus_delta[C::kStages][C::kTileM];
    Pipeline<C::kStages> q_pipe;     // q and the LSE
    Pipeline<C::kStages> dout_pipe;  // dout and delta
    Pipeline<2> weights_pipe;
    Pipeline<1> k_pipe;
    Pipeline<1> v_pipe;
    Pipeline<1> work_pipe;
    Work work;
    Work next;

    // Called by one thread.
    CUTE_DEVICE void init() {
        constexpr uint32_t kWarps = 4;  // of a warpgroup
        q_pipe.init(2 * kWarps);
        dout_pipe.init(2 * kWarps);
        weights_pipe.init(kWarps, kWarps);
        k_pipe.init(kWarps);
        v_pipe.init(kWarps);
        work_pipe.init(2 * kWarps + 1);
    }
};

}  // namespace fa3
