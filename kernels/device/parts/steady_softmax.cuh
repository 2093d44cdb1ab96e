// Online softmax without a running maximum; rows and lanes as in `parts/softmax.cuh`.
//
// exp2(s - reference) has the same relative precision for any reference, as long as it neither overflows nor vanishes.
// A row takes the maximum of its first block of visible keys as its reference and keeps it. The sum of a block, which
// is needed anyway, shows when the scores have grown too far above the reference. This saves one comparison per score,
// a fifth of the instructions of a step (`fwd/fwd_sm90.md`).
//
// The reference is a rounded product, the exponents are fused multiply-adds of the scores: they differ by up to half an
// ulp of the reference. A row with a large reference is therefore recomputed with a shift: the raw maximum is subtracted
// from its scores before they are scaled, and the reference then lies near 0.
#pragma once

#include "parts/softmax.cuh"

namespace fa3 {

// Thread's share of a block sum above which the row's reference rises. fp16 holds 8 times as much.
constexpr float kRaiseAbove = 8192.f;  // 2^13
// Share above which a raise is too late, as infinity is near: overflow, the tile must be recomputed.
constexpr float kOverflowAbove = 18446744073709551616.f;  // 2^64
// Magnitude of a large reference: from here on, an ulp is 2^-7 or more. A recomputed row gets a shift from twice of that
// on: raises may have moved a reference below the limit since it was set, and rows that did not overflow keep their bits.
constexpr float kLargeReference = 65536.f;  // 2^16

struct SteadySoftmax {
    float reference[2];  // subtracted from the scaled scores, base 2; -inf: none yet
    float row_sum[2];    // this thread's share
    float block_sum[2];  // this thread's share of the last block
    float scale_log2;    // |softmax_scale| * log2(e)

    CUTE_DEVICE explicit SteadySoftmax(float scale) : scale_log2(scale) {
        reference[0] = reference[1] = -infinity();
        row_sum[0] = row_sum[1] = 0.f;
    }

    // Sets the reference of rows without one to the maximum of these scores, which may be -inf.
    template <int Count>
    CUTE_DEVICE void init_references(float const (&s)[Count]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            float const peak = max_of_row(s, row) * scale_log2;
            reference[row] = reference[row] == -infinity() ? peak : reference[row];
        }
    }

    // Replaces scores by P = exp2(scale_log2 * s - reference) and adds them to the row sums.
    template <int Count>
    CUTE_DEVICE void exponentiate(float (&s)[Count]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            block_sum[row] = 0.f;
            exponentiate_row(s, row, scale_log2, offset_of(row), block_sum[row]);
            row_sum[row] += block_sum[row];
        }
    }

    // Whether a row of this thread has no reference yet: no visible key so far, or only scores of -inf.
    CUTE_DEVICE bool lacks_reference() const { return fminf(reference[0], reference[1]) == -infinity(); }

    // Whether the last block raises the reference of a row of this thread.
    CUTE_DEVICE bool needs_raise() const { return fmaxf(block_sum[0], block_sum[1]) > kRaiseAbove; }

    // Whether the last block overflowed in a row of this thread.
    CUTE_DEVICE bool has_overflowed() const { return fmaxf(block_sum[0], block_sum[1]) > kOverflowAbove; }

    // Raises references where the last block needs it, by whole powers of two, so that no sum is rounded. `factor`: for
    // O, and for P that is not in O yet. Returns whether a row of this thread has overflowed.
    CUTE_DEVICE bool raise_references(float (&factor)[2]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            float const most = quad_max(block_sum[row]);
            int const exponent = most > kRaiseAbove ? __float_as_int(most) >> 23 : 127;
            factor[row] = __uint_as_float(uint32_t(254 - exponent) << 23);
            reference[row] += float(exponent - 127);
            row_sum[row] *= factor[row];
        }
        return has_overflowed();
    }

    // After the last block: whether the reference of a row of this thread is too large for the exponents to be exact.
    // Overflow, the tile must be recomputed.
    CUTE_DEVICE bool has_large_reference() const {
        return exceeds(reference[0], kLargeReference) || exceeds(reference[1], kLargeReference);
    }

    // For a tile that is recomputed: rows that these scores would overflow, and rows without a reference, take the maximum
    // of these scores as reference, or as shift if the reference would be large. All other rows keep every bit. Subtracts
    // the shifts from the scores. `factor`: for O.
    template <int Count>
    CUTE_DEVICE void replace_references(float (&s)[Count], float (&shift)[2], float (&factor)[2]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            float const offset = offset_of(row);
            float sum = 0.f;
            CUTE_UNROLL
            for (int i = 2 * row; i < Count; i += 4) {
                sum += exp2_approx(fmaf(s[i] - shift[row], scale_log2, -offset));
                sum += exp2_approx(fmaf(s[i + 1] - shift[row], scale_log2, -offset));
            }
            float const top = max_of_row(s, row);
            float const peak = (top - shift[row]) * scale_log2;
            bool const lacks = reference[row] == -infinity();
            factor[row] = 1.f;
            if (quad_max(sum) > kOverflowAbove || lacks) {
                factor[row] = lacks ? 1.f : exp2_approx(reference[row] - peak);
                row_sum[row] *= factor[row];
                bool const shifts = exceeds(peak, 2.f * kLargeReference);
                shift[row] = shifts ? top : shift[row];
                reference[row] = shifts ? 0.f : peak;
            }
            subtract_from_row(s, row, shift[row]);
        }
    }

    // After the last block of a tile that is recomputed: references without a shift again, for the LSE.
    CUTE_DEVICE void undo_shifts(float const (&shift)[2]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) reference[row] += shift[row] * scale_log2;
    }

    // Normalises O and computes the LSE (`finish_row`). `factor`: pending factors of raise_references; overwritten.
    template <int Count>
    CUTE_DEVICE void finish(float const (&sinks_log2)[2], float (&factor)[2], float (&o)[Count],
                            float (&lse)[2]) const {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            RowResult const result = finish_row(reference[row], row_sum[row], sinks_log2[row]);
            factor[row] *= result.factor;
            lse[row] = result.lse;
        }
        rescale_rows(o, factor);
    }

private:
    CUTE_DEVICE static bool exceeds(float reference, float limit) {
        return fabsf(reference) >= limit && reference != -infinity();
    }

    // 0 for a row without a reference: -inf - -inf is NaN.
    CUTE_DEVICE float offset_of(int row) const { return reference[row] == -infinity() ? 0.f : reference[row]; }
};

}  // namespace fa3
