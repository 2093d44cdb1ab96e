// Row operations of softmax on the accumulators of a warp's 16 rows. A thread holds parts of two rows, `row` and
// `row` + 8; the four lanes of a quad hold all of both.
// Source of the recurrence: Milakov & Gimelshein 2018; FlashAttention-2, algorithm 1.
#pragma once

#include "parts/math.cuh"
#include "parts/warp.cuh"

namespace fa3 {

// Maximum of a row's scores: this thread's share.
template <int Count>
CUTE_DEVICE float max_of_share(float const (&s)[Count], int row) {
    float most = fmaxf(s[2 * row], s[2 * row + 1]);
    CUTE_UNROLL
    for (int i = 4; i < Count; i += 4) most = fmaxf(most, fmaxf(s[i + 2 * row], s[i + 2 * row + 1]));
    return most;
}

// The same over the whole row.
template <int Count>
CUTE_DEVICE float max_of_row(float const (&s)[Count], int row) {
    return quad_max(max_of_share(s, row));
}

// Replaces a row's scores by exp2(scale_log2 * s - offset) and adds them to this thread's sum. An explicit fmaf: where
// the compiler knows the product already, it would round it first, and the result would not be the same everywhere.
template <int Count>
CUTE_DEVICE void exponentiate_row(float (&s)[Count], int row, float scale_log2, float offset, float& sum) {
    CUTE_UNROLL
    for (int i = 0; i < Count; i += 4) {
        CUTE_UNROLL
        for (int j = 2 * row; j < 2 * row + 2; ++j) {
            s[i + j] = exp2_approx(fmaf(s[i + j], scale_log2, -offset));
            sum += s[i + j];
        }
    }
}

template <int Count>
CUTE_DEVICE void subtract_from_row(float (&s)[Count], int row, float value) {
    CUTE_UNROLL
    for (int i = 2 * row; i < Count; i += 4) {
        s[i] -= value;
        s[i + 1] -= value;
    }
}

template <int Count>
CUTE_DEVICE void rescale_rows(float (&o)[Count], float const (&factor)[2]) {
    CUTE_UNROLL
    for (int i = 0; i < Count; ++i) o[i] *= factor[(i / 2) % 2];
}

struct RowResult {
    float factor;  // normalises O: 1 / row sum; 0 for a row without visible keys
    float lse;     // natural logarithm
};

// `reference`: subtracted from the scaled scores, base 2, or -inf; `row_sum`: this thread's share; `sink_log2`: logit
// that joins the denominator without a value, base 2, or -inf.
CUTE_DEVICE RowResult finish_row(float reference, float row_sum, float sink_log2) {
    float const peak = fmaxf(reference, sink_log2);
    float const keys = reference == -infinity() ? 0.f : exp2_approx(reference - peak);
    float const sink = sink_log2 == -infinity() ? 0.f : exp2_approx(sink_log2 - peak);
    float const sum = quad_sum(row_sum) * keys + sink;
    return {sum == 0.f ? 0.f : __fdividef(keys, sum), sum == 0.f ? -infinity() : (peak + __log2f(sum)) * kLn2};
}

}  // namespace fa3
