// Matrix descriptors of wgmma operands in shared memory under the 128-byte swizzle (`arch/slab.cuh`).
// Fields: PTX ISA, "Matrix descriptor format"; canonical layouts: cute/arch/mma_sm90_desc.hpp.
#pragma once

#include <cute/arch/util.hpp>

#include "arch/slab.cuh"

namespace fa3 {

constexpr int kSwizzleAtomBytes = 8 * kSlabRowBytes;  // the swizzle repeats every 8 rows

// `leading`: bytes between slabs, for an operand whose outer (M or N) dimension is contiguous; unused where K is
// contiguous.
constexpr uint32_t kDescriptorHigh = 1u << 30 | kSwizzleAtomBytes >> 4;  // the swizzle and the stride between its atoms
CUTE_DEVICE uint64_t make_descriptor(void const* smem, uint32_t leading) {
    constexpr uint64_t kSwizzle128B = uint64_t(1) << 62;
    constexpr uint64_t kStride = uint64_t(kSwizzleAtomBytes >> 4) << 32;
    uint32_t const address = cute::cast_smem_ptr_to_uint(smem);
    return kSwizzle128B | kStride | (uint64_t(leading >> 4) << 16) | uint64_t((address & 0x3FFFF) >> 4);
}

CUTE_DEVICE constexpr uint64_t advance(uint64_t descriptor, uint32_t bytes) {
    return descriptor + (bytes >> 4);
}

// Dynamic shared memory starts behind the kilobyte that the system reserves.
constexpr uint32_t kSharedMemoryStart = 1024;

// A descriptor in halves, of which the address is in the lower one: an addition takes 32 bits.
struct SplitDescriptor {
    uint32_t low;
    uint32_t high;

    CUTE_DEVICE operator uint64_t() const { return uint64_t(high) << 32 | low; }
};

CUTE_DEVICE constexpr SplitDescriptor advance(SplitDescriptor descriptor, uint32_t bytes) {
    return {descriptor.low + (bytes >> 4), descriptor.high};
}

}  // namespace fa3
