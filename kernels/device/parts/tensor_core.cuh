// What the products of a warpgroup and those of a warp have in common.
#pragma once

#include <cute/config.hpp>

#include "arch/sm80/element.cuh"

namespace fa3 {

constexpr int kMmaK = 16;  // elements of the inner dimension that one product consumes

// The accumulator layout of a product is the A-operand layout of the next, two floats to a register.
template <class Element, int Count>
CUTE_DEVICE void to_operand(float const (&s)[Count], uint32_t (&a)[Count / 2]) {
    CUTE_UNROLL
    for (int i = 0; i < Count / 2; ++i) a[i] = pack(Element{}, s[2 * i], s[2 * i + 1]);
}

}  // namespace fa3
