// Attention backward for sm_90a: warp-specialised, TMA loads, persistent, a tile of keys at a time. Design note: bwd_sm90.md.
//
// Compiled once per variant, whose row arrives as FA3_* macros. One kernel serves every mask.
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/cutlass.h>

#include "arch/sm80/element.cuh"
#include "bwd/bwd_sm90_consumer.cuh"
#include "bwd/bwd_sm90_order.cuh"
#include "bwd/bwd_sm90_storage.cuh"
#include "params/bwd.h"

namespace fa3 {

struct Row {
    using Element = FA3_ELEMENT;
    static constexpr int kHeadDim = FA3_HEAD_DIM;
    static constexpr int kHeadDimV = FA3_HEAD_DIM_V;
    static constexpr int kTileM = FA3_TILE_M;
    static constexpr int kTileN = FA3_TILE_N;
    static constexpr int kStages = FA3_STAGES;
};
using Config = Schedule<Row>;
static_assert(sizeof(SharedStorage<Config>) == FA3_SMEM_BYTES, "the variant row states another size");

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::Config::kThreads, 1)
    FA3_KERNEL(const __grid_constant__ fa3::BwdParams p) {
    using C = fa3::Config;
    extern __shared__ unsigned char smem_bytes[];
    auto& smem = *reinterpret_cast<fa3::SharedStorage<C>*>(__cvta_shared_to_generic(fa3::kSharedMemoryStart));
    bool const ordered = p.workspace.turns != nullptr;
    int const warpgroup = cutlass::canonical_warp_group_idx();
    if (threadIdx.x == 0) {
        if ((cute::cast_smem_ptr_to_uint(smem_bytes) & 0x3FFFF) != fa3::kSharedMemoryStart) __trap();
        smem.init(ordered);
        cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    if (warpgroup == 0) {
        cutlass::arch::warpgroup_reg_dealloc<C::kProducerRegisters>();
        int const warp = cutlass::canonical_warp_idx_sync();
        if (warp == 0) fa3::produce_keys<C>(p, smem);
        if (warp == 1 && cute::elect_one_sync()) fa3::produce_queries<C>(p, smem);
        if (warp == 2 && ordered) fa3::await_turns<C>(p, smem);
        if (warp == 3 && ordered) fa3::pass_turns<C>(p, smem);
    } else {
        cutlass::arch::warpgroup_reg_alloc<C::kConsumerRegisters>();
        if (ordered) {
            fa3::consume<C, true>(p, smem);
        } else {
            fa3::consume<C, false>(p, smem);
        }
    }
}
