// Online softmax of a warp's 16 rows, two of them a thread (row and row + 8).
// Source of the recurrence: Milakov & Gimelshein 2018; FlashAttention-2, algorithm 1.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

CUTE_DEVICE float infinity() { return __int_as_float(0x7F800000); }

CUTE_DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The four lanes of a quad hold one row.
CUTE_DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xFFFFFFFF, x, 2));
}

CUTE_DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xFFFFFFFF, x, 1);
    return x + __shfl_xor_sync(0xFFFFFFFF, x, 2);
}

// The maximum of a row's scores: of this thread's share, and over the quad.
template <int Count>
CUTE_DEVICE float share_peak(float const (&s)[Count], int row) {
    float peak = fmaxf(s[2 * row], s[2 * row + 1]);
    CUTE_UNROLL
    for (int i = 4; i < Count; i += 4) peak = fmaxf(peak, fmaxf(s[i + 2 * row], s[i + 2 * row + 1]));
    return peak;
}
template <int Count>
CUTE_DEVICE float row_peak(float const (&s)[Count], int row) {
    return quad_max(share_peak(s, row));
}

// Turns a row's scores into exp2(scale_log2 * s - offset), in place, and adds them to this thread's sum.
template <int Count>
CUTE_DEVICE void exponentiate_row(float (&s)[Count], int row, float scale_log2, float offset, float& sum) {
    CUTE_UNROLL
    for (int i = 0; i < Count; i += 4) {
        CUTE_UNROLL
        for (int j = 2 * row; j < 2 * row + 2; ++j) {
            s[i + j] = exp2_approx(s[i + j] * scale_log2 - offset);
            sum += s[i + j];
        }
    }
}

template <int Count>
CUTE_DEVICE void rescale_rows(float (&o)[Count], float const (&factor)[2]) {
    CUTE_UNROLL
    for (int i = 0; i < Count; ++i) o[i] *= factor[(i / 2) % 2];
}

struct RowEnd {
    float factor;  // what O must be multiplied by: one over the row's sum, 0 for a row that saw no key
    float lse;     // natural logarithm
};

// `reference`: what was subtracted from the scaled scores, base 2, or -inf; `row_sum`: this thread's share; `sink_log2`:
// the logarithm, base 2, of what joins the denominator without a value, or -inf.
CUTE_DEVICE RowEnd end_row(float reference, float row_sum, float sink_log2) {
    constexpr float kLn2 = 0.693147180559945309f;
    float const peak = fmaxf(reference, sink_log2);
    float const keys = reference == -infinity() ? 0.f : exp2_approx(reference - peak);
    float const sink = sink_log2 == -infinity() ? 0.f : exp2_approx(sink_log2 - peak);
    float const sum = quad_sum(row_sum) * keys + sink;
    return {sum == 0.f ? 0.f : __fdividef(keys, sum), sum == 0.f ? -infinity() : (peak + __log2f(sum)) * kLn2};
}

// A row's maximum may lag behind the true one by this many powers of two before O and the sum are rescaled: P stays
// below 2^8, which fp16 and bf16 hold as exactly as they hold 1, and most steps touch O not at all.
constexpr float kLag = 8.f;

struct OnlineSoftmax {
    float row_max[2];  // what is subtracted from the unscaled scores: the running maximum, or less by up to the lag
    float row_sum[2];  // this thread's share; summed over the quad at the end
    float shrink[2];   // what O must be multiplied by before the new block is added
    float scale_log2;  // |softmax_scale| * log2(e)

    OnlineSoftmax() = default;
    CUTE_DEVICE explicit OnlineSoftmax(float scale) : scale_log2(scale) {
        row_max[0] = row_max[1] = -infinity();
        row_sum[0] = row_sum[1] = 0.f;
        shrink[0] = shrink[1] = 1.f;
    }

    // Takes in the maxima of a block of scores. True (for the whole warp) when O must be rescaled.
    template <int Count>
    CUTE_DEVICE bool update_max(float const (&s)[Count]) {
        bool grown[2];
        float peak[2];
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) peak[row] = share_peak(s, row);
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            peak[row] = quad_max(peak[row]);
            grown[row] = (peak[row] - row_max[row]) * scale_log2 > kLag;
        }
        if (!__any_sync(0xFFFFFFFF, grown[0] || grown[1])) return false;
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            shrink[row] = grown[row] ? exp2_approx((row_max[row] - peak[row]) * scale_log2) : 1.f;
            row_max[row] = grown[row] ? peak[row] : row_max[row];
            row_sum[row] *= shrink[row];
        }
        return true;
    }

    // Turns scores into exp2(scale_log2 * (s - row_max)), in place, and adds them up.
    template <int Count>
    CUTE_DEVICE void exponentiate(float (&s)[Count]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            // A row that is masked so far throughout has -inf there, and -inf - -inf is no number.
            float const offset = row_max[row] == -infinity() ? 0.f : row_max[row] * scale_log2;
            exponentiate_row(s, row, scale_log2, offset, row_sum[row]);
        }
    }

    // What update_max asked for.
    template <int Count>
    CUTE_DEVICE void rescale(float (&o)[Count]) const {
        rescale_rows(o, shrink);
    }

    // Divides O by the row sums and gives the LSE: see end_row.
    template <int Count>
    CUTE_DEVICE void finish(float const (&sinks_log2)[2], float (&o)[Count], float (&lse)[2]) {
        float factor[2];
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            float const top = row_max[row] == -infinity() ? -infinity() : row_max[row] * scale_log2;
            RowEnd const end = end_row(top, row_sum[row], sinks_log2[row]);
            factor[row] = end.factor;
            lse[row] = end.lse;
        }
        rescale_rows(o, factor);
    }
};

// tanh of scaled scores, for softcap; the identity tanh x = 1 - 2 / (1 + e^2x) keeps the full precision of EX2.
template <int Count>
CUTE_DEVICE void cap_scores(float (&s)[Count], float scale) {
    constexpr float kTwoLog2E = 2.885390081777927f;
    CUTE_UNROLL
    for (int i = 0; i < Count; ++i) {
        s[i] = 1.f - __fdividef(2.f, 1.f + exp2_approx(s[i] * (scale * kTwoLog2E)));
    }
}

}  // namespace fa3
