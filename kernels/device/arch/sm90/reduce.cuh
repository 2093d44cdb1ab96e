// Additions to global memory, four floats at once.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

// Adds to four neighbouring floats, 16-byte aligned; each addition is atomic, the four together are not.
CUTE_DEVICE void add_to_global(float* to, float a, float b, float c, float d) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(a), "f"(b), "f"(c), "f"(d)
                 : "memory");
}

}  // namespace fa3
