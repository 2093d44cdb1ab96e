// Schedule constants and shared memory of bwd_sm90. Layout and sizes: bwd_sm90.md.
#pragma once

#include "arch/slab.cuh"
#include "bwd/key_work.cuh"

namespace fa3 {

// Named barriers; 0 is that of __syncthreads.
constexpr uint32_t kExchange = 1;  // of the consumers
constexpr uint32_t kTurn = 2;      // it is this block's turn to add to a tile of dq
constexpr uint32_t kAdded = 3;     // it has added

// `Row`: the variant row. Element, kHeadDim, kHeadDimV, kTileM, kTileN; kStages: buffers of q and of dout.
template <class Row>
struct Schedule : Row {
    using typename Row::Element;
    static constexpr int kSlabs = slab_count<Element>(Row::kHeadDim);
    static constexpr int kSlabsV = slab_count<Element>(Row::kHeadDimV);
    static constexpr int kSlabsM = slab_count<Element>(Row::kTileM);
    static constexpr int kConsumers = Row::kTileN / 64;  // warpgroups, 64 keys each
    static constexpr int kConsumerWarps = kConsumers * 4;
    static constexpr int kTurnThreads = kConsumers * 128 + 32;  // at kTurn: consumers and the warp that awaits turns
    static constexpr int kAddedThreads = kTurnThreads + 32;     // at kAdded: and the warp that passes them
    static constexpr int kThreads = (kConsumers + 1) * 128;
    // 64 Ki registers a multiprocessor, one block on it. A block has what its threads have at launch: a consumer that asks
    // for more waits forever. setmaxnreg takes multiples of 8.
    static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
    static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : 240;
    static constexpr int kProducerRegisters = (kConsumers + 1) * kLaunchRegisters - kConsumers * kConsumerRegisters;
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
    Element dk[C::kSlabs * C::kTileN * kSlab];      // on their way to the outputs
    Element dv[C::kSlabsV * C::kTileN * kSlab];
    float lse_log2[C::kStages][C::kTileM];
    float minus_delta[C::kStages][C::kTileM];
    Pipeline<C::kStages> q_pipe;     // q and the LSE
    Pipeline<C::kStages> dout_pipe;  // dout and delta
    Pipeline<2> ds_pipe;
    Pipeline<1> k_pipe;
    Pipeline<1> v_pipe;
    Pipeline<1> work_pipe;
    Work work;
    Work next;

    // Called by one thread. `ordered`: warps keep the order of additions to dq and read the work slots, too.
    CUTE_DEVICE void init(bool ordered) {
        q_pipe.init(C::kConsumerWarps);
        dout_pipe.init(C::kConsumerWarps);
        ds_pipe.init(C::kConsumerWarps, C::kConsumerWarps);
        k_pipe.init(C::kConsumerWarps);
        v_pipe.init(C::kConsumerWarps);
        work_pipe.init(C::kConsumerWarps + (ordered ? 3 : 1));
    }
};

}  // namespace fa3
