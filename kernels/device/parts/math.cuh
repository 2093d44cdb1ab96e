// Constants and approximations of softmax.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

constexpr float kLog2E = 1.442695040888963f;
constexpr float kLn2 = 0.693147180559945309f;

CUTE_DEVICE float infinity() { return __int_as_float(0x7F800000); }

CUTE_DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace fa3
