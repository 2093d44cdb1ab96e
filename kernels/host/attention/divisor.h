// Greatest common divisor.
#pragma once

#include <stdint.h>

namespace fa3 {

// Of numbers that are not negative; 0 of two zeros.
inline int64_t greatest_common_divisor(int64_t a, int64_t b) {
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

}  // namespace fa3
