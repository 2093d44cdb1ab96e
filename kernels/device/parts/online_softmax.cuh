// Online softmax with a running maximum; rows and lanes as in `parts/softmax.cuh`.
#pragma once

#include "parts/softmax.cuh"

namespace fa3 {

// The stored maximum may lag behind the true one by this many powers of two before O and the row sum are rescaled. P
// stays below 2^8, where fp16 and bf16 have the same relative precision as at 1, and most steps leave O alone.
constexpr float kLag = 8.f;

// Magnitude of a scaled maximum from which on its rounding matters: the exponents are fused multiply-adds of the scores,
// so they differ from it by up to half an ulp, which is 2^-8 from here on.
constexpr float kLargeMax = 65536.f;  // 2^16

struct OnlineSoftmax {
    float row_max[2];  // subtracted from the unscaled scores: the running maximum, or less by up to the lag
    float row_sum[2];  // this thread's share
    float shrink[2];   // factor for O before it takes the new block
    float scale_log2;  // |softmax_scale| * log2(e)
    bool has_large_max;

    OnlineSoftmax() = default;
    CUTE_DEVICE explicit OnlineSoftmax(float scale) : scale_log2(scale) {
        row_max[0] = row_max[1] = -infinity();
        row_sum[0] = row_sum[1] = 0.f;
        shrink[0] = shrink[1] = 1.f;
        has_large_max = false;
    }

    // Updates the maxima with a block of scores, and subtracts large ones from it. Returns, for the whole warp, whether O
    // must be rescaled.
    template <int Count>
    CUTE_DEVICE bool update_max(float (&s)[Count]) {
        bool grown[2];
        float peak[2];
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) peak[row] = max_of_share(s, row);
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            peak[row] = quad_max(peak[row]);
            grown[row] = (peak[row] - row_max[row]) * scale_log2 > kLag;
        }
        if (!any_lane(grown[0] || grown[1] || has_large_max)) return false;
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            shrink[row] = grown[row] ? exp2_approx((row_max[row] - peak[row]) * scale_log2) : 1.f;
            row_max[row] = grown[row] ? peak[row] : row_max[row];
            row_sum[row] *= shrink[row];
            subtract_from_row(s, row, is_large(row) ? row_max[row] : 0.f);
        }
        has_large_max = is_large(0) || is_large(1);
        return true;
    }

    // Replaces scores, after update_max, by exp2(scale_log2 * (s - row_max)) and adds them to the row sums.
    template <int Count>
    CUTE_DEVICE void exponentiate(float (&s)[Count]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            // Offset 0 for a centred row, and for one without visible keys so far: -inf - -inf is NaN.
            float const reference = row_max[row] * scale_log2;
            float const offset = fabsf(reference) < kLargeMax ? reference : 0.f;
            exponentiate_row(s, row, scale_log2, offset, row_sum[row]);
        }
    }

    // Rescales O, after update_max returned true.
    template <int Count>
    CUTE_DEVICE void rescale(float (&o)[Count]) const {
        rescale_rows(o, shrink);
    }

    // Normalises O and computes the LSE (`finish_row`).
    template <int Count>
    CUTE_DEVICE void finish(float const (&sinks_log2)[2], float (&o)[Count], float (&lse)[2]) {
        float factor[2];
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            float const reference = row_max[row] == -infinity() ? -infinity() : row_max[row] * scale_log2;
            RowResult const result = finish_row(reference, row_sum[row], sinks_log2[row]);
            factor[row] = result.factor;
            lse[row] = result.lse;
        }
        rescale_rows(o, factor);
    }

private:
    CUTE_DEVICE bool is_large(int row) const {
        return fabsf(row_max[row] * scale_log2) >= kLargeMax && row_max[row] != -infinity();
    }
};

}  // namespace fa3
