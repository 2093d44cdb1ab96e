// Stores under a predicate instead of behind a branch. A branch on a lane's own value in the epilogue of an sm_90
// kernel makes the assembler treat the main loop as divergent: it keeps pipeline stages in ordinary registers and moves
// every matrix descriptor to uniform registers in front of its wgmma, which costs 3 %.
#pragma once

#include <cute/arch/util.hpp>

namespace fa3 {

CUTE_DEVICE void store_if(bool condition, float* to, float value) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.global.f32 [%1], %2; }" ::"r"(uint32_t(condition)),
                 "l"(to), "f"(value)
                 : "memory");
}

// Stores `true` to shared memory.
CUTE_DEVICE void set_shared_if(bool condition, bool* to) {
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.shared.u8 [%1], %0; }" ::"r"(uint32_t(condition)),
                 "r"(cute::cast_smem_ptr_to_uint(to))
                 : "memory");
}

}  // namespace fa3
