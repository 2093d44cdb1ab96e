// Softcap: tanh of scaled scores.
#pragma once

#include "parts/math.cuh"

namespace fa3 {

// s = tanh(scale * s), as tanh x = 1 - 2 / (1 + e^2x), which keeps the precision of EX2.
template <int Count>
CUTE_DEVICE void cap_scores(float (&s)[Count], float scale) {
    constexpr float kTwoLog2E = 2.885390081777927f;
    CUTE_UNROLL
    for (int i = 0; i < Count; ++i) {
        s[i] = 1.f - __fdividef(2.f, 1.f + exp2_approx(s[i] * (scale * kTwoLog2E)));
    }
}

}  // namespace fa3
