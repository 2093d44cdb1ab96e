// Descriptors of operands by their place in a structure that starts at the start of dynamic shared memory.
#pragma once

#include "arch/sm90/matrix_descriptor.cuh"

namespace fa3 {

// `offset`: of the operand in the structure, so that the descriptor is computed in uniform registers. `leading`: as of
// make_descriptor.
CUTE_DEVICE SplitDescriptor descriptor_at(uint32_t offset, uint32_t leading) {
    return {(kSharedMemoryStart + offset) >> 4 | leading >> 4 << 16, kDescriptorHigh};
}

}  // namespace fa3
