// PTX instructions of the portable kernels: cp.async, ldmatrix, mma.sync.
#pragma once

#include <cute/config.hpp>

#include "arch/sm80/element.cuh"

namespace fa3 {

// The lane, of which the compiler knows nothing: what is computed from it inside a loop stays there and takes no register
// outside.
CUTE_DEVICE int opaque_lane() {
    int lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

// Starts a copy of 16 bytes to shared memory: reads the first `bytes`, fills the rest with zeros.
CUTE_DEVICE void copy_chunk(uint32_t to, void const* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
CUTE_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
CUTE_DEVICE void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// Waits for all but the copies of the last `Groups` commits.
template <int Groups>
CUTE_DEVICE void wait_copies_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
}

// Loads four 8 x 8 matrices from shared memory; lane l gives the address of row l % 8 of matrix l / 8. Volatile, so
// that the compiler moves no load across a barrier.
CUTE_DEVICE void load_matrices(uint32_t (&f)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                 : "r"(address));
}
CUTE_DEVICE void load_matrices_transposed(uint32_t (&f)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                 : "r"(address));
}

// d (16 x 8) = a (16 x 16) . b (16 x 8) + c; d may be c.
CUTE_DEVICE void multiply(Half, float* d, uint32_t const (&a)[4], uint32_t b0, uint32_t b1, float const* c) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
CUTE_DEVICE void multiply(Bfloat16, float* d, uint32_t const (&a)[4], uint32_t b0, uint32_t b1, float const* c) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

}  // namespace fa3
