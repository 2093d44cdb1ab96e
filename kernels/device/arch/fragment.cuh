// Register fragments of 16-bit matrix products, common to mma.sync and wgmma.
#pragma once

#include <cute/config.hpp>

#include "arch/sm80/element.cuh"

namespace fa3 {

constexpr int kMmaK = 16;  // elements of the inner dimension of one instruction

// Converts the accumulators of one product into the A operand of the next: same layout, two elements a register.
template <class Element, int Count>
CUTE_DEVICE void to_operand(float const (&s)[Count], uint32_t (&a)[Count / 2]) {
    CUTE_UNROLL
    for (int i = 0; i < Count / 2; ++i) a[i] = pack(Element{}, s[2 * i], s[2 * i + 1]);
}

}  // namespace fa3
