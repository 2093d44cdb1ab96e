// Attention backward for sm_90a and wide heads, dk and dv: warp-specialised, TMA loads, persistent, 64 keys at a time.
// Design note: bwd_keys_sm90.md.
//
// Compiled once per variant, whose row arrives as FA3_* macros. One kernel serves every mask.
#include <cutlass/arch/reg_reconfig.h>
#include <cutlass/cutlass.h>

#include "arch/sm80/element.cuh"
#include "bwd/bwd_keys_sm90_consumer.cuh"
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
    int const warpgroup = cutlass::canonical_warp_group_idx();
    if (threadIdx.x == 0) {
        if ((cute::cast_smem_ptr_to_uint(smem_bytes) & 0x3FFFF) != fa3::kSharedMemoryStart) __trap();
        smem.init();
        cutlass::arch::fence_barrier_init();
    }
    __syncthreads();
    if (warpgroup == 0) {
        cutlass::arch::warpgroup_reg_dealloc<C::kProducerRegisters>();
        int const warp = cutlass::canonical_warp_idx_sync();
        if (warp == 0) fa3::produce_keys<C>(p, smem);
        if (warp == 1 && cute::elect_one_sync()) fa3::produce_queries<C>(p, smem);
        return;
    }
    cutlass::arch::warpgroup_reg_alloc<C::kConsumerRegisters>();
    uint32_t phase = 0;
    while (true) {
        smem.work_pipe.wait_full({0, phase});
        if (smem.work.steps < 0) break;
        int const thread = fa3::opaque(threadIdx.x) % 128;
        phase = warpgroup == 1 ? fa3::compute_dv<C>(p, smem, thread) : fa3::compute_dk<C>(p, smem, thread);
    }
}
