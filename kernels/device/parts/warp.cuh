// Reductions and votes of a warp, and of the quads of lanes that share a row of an accumulator.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

CUTE_DEVICE bool any_lane(bool condition) { return __any_sync(0xFFFFFFFF, condition); }

CUTE_DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 2));
}

CUTE_DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xFFFFFFFF, x, 1);
    return x + __shfl_xor_sync(0xFFFFFFFF, x, 2);
}

CUTE_DEVICE float warp_max(float x) {
    CUTE_UNROLL
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, step));
    return x;
}

CUTE_DEVICE float warp_sum(float x) {
    CUTE_UNROLL
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFF, x, step);
    return x;
}

}  // namespace fa3
