// Attention forward for sm_90a: warp-specialised, persistent, TMA loads and stores. Design note: fwd_sm90.md.
//
// Compiled once per variant, whose row arrives as FA3_* macros.
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/cutlass.h>

#include "arch/sm80/element.cuh"
#include "fwd/fwd_sm90_consumer.cuh"
#include "fwd/fwd_sm90_producer.cuh"
#include "fwd/fwd_sm90_storage.cuh"
#include "params/fwd.h"
#include "parts/mask.cuh"

namespace fa3 {

struct Row {
    using Element = FA3_ELEMENT;
    static constexpr int kHeadDim = FA3_HEAD_DIM;
    static constexpr int kHeadDimV = FA3_HEAD_DIM_V;  // of one slice
    static constexpr int kTileM = FA3_TILE_M;
    static constexpr int kTileN = FA3_TILE_N;
    static constexpr MaskClass kMask = MaskClass::FA3_MASK;
    static constexpr int kStagesQ = FA3_STAGES_Q;
    static constexpr int kStages = FA3_STAGES;
    static constexpr int kStagedSlabs = FA3_SLABS_O;
    static constexpr bool kTurns = FA3_TURNS;
    static constexpr bool kHalves = FA3_HALVES;
};
using Config = Schedule<Row>;
static_assert(sizeof(SharedStorage<Config>) == FA3_SMEM_BYTES, "the variant row states another size");

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::Config::kThreads, 1)
    FA3_KERNEL(const __grid_constant__ fa3::FwdParams p) {
    using C = fa3::Config;
    extern __shared__ unsigned char smem_bytes[];
    auto& smem = *reinterpret_cast<fa3::SharedStorage<C>*>(smem_bytes);
    int const warpgroup = cutlass::canonical_warp_group_idx();
    if (threadIdx.x == 0) {
        smem.init();
        cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    if (warpgroup == 0) {
        cutlass::arch::warpgroup_reg_dealloc<C::kProducerRegisters>();
        if (threadIdx.x < 32) fa3::produce<C>(p, smem);
    } else {
        cutlass::arch::warpgroup_reg_alloc<C::kConsumerRegisters>();
        fa3::consume<C>(p, smem, warpgroup - 1);
    }
}
