// 16-bit floating-point elements. The headers of CUTLASS's number types would add 75 KB of unused constants to an
// image.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

struct Half {
    uint16_t bits;
};
struct Bfloat16 {
    uint16_t bits;
};

// Rounds two fp32 values to elements in one register.
CUTE_DEVICE uint32_t pack(Half, float low, float high) {
    uint32_t out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}
CUTE_DEVICE uint32_t pack(Bfloat16, float low, float high) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// Two elements of one register as fp32.
CUTE_DEVICE void unpack(Half, uint32_t pair, float (&x)[2]) {
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
        : "=f"(x[0]), "=f"(x[1])
        : "r"(pair));
}
CUTE_DEVICE void unpack(Bfloat16, uint32_t pair, float (&x)[2]) {
    x[0] = __uint_as_float(pair << 16);
    x[1] = __uint_as_float(pair & 0xFFFF0000u);
}

}  // namespace fa3
