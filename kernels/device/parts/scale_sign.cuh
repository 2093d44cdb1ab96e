// Scales that are not positive. A negative softmax_scale would turn the row maximum into a minimum, so kernels multiply
// Q by the sign of the scale (by 0 for a scale of 0) and scale the scores by a positive number.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

CUTE_DEVICE float positive_scale(float scale) { return scale == 0.f ? 1.f : fabsf(scale); }

// Applies the sign to two 16-bit elements.
struct ScaleSign {
    uint32_t keep;
    uint32_t flip;

    CUTE_DEVICE explicit ScaleSign(float scale)
        : keep(scale == 0.f ? 0u : 0xFFFFFFFFu), flip(scale < 0.f ? 0x80008000u : 0u) {}
    CUTE_DEVICE uint32_t apply(uint32_t pair) const { return (pair & keep) ^ flip; }
};

}  // namespace fa3
