// What the compiler may assume of a value.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

// `value`, which all lanes have: behind a shuffle, the compiler keeps it, and what follows from it, in uniform registers.
CUTE_DEVICE int uniform(int value) { return __reduce_or_sync(0xFFFFFFFF, value); }

// `value`, of which the compiler knows nothing: what follows from it is not moved out of a loop.
CUTE_DEVICE int opaque(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

}  // namespace fa3
