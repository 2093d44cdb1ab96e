// Online softmax of a warp's 16 rows without a maximum for every block; rows and lanes as in softmax.cuh.
//
// exp2(s - reference) has the same relative precision for any reference, as long as it neither overflows nor vanishes.
// So a row takes the maximum of the first block of keys that it sees for its reference and keeps it; the sum of a
// block, which is needed anyway, tells when the scores have grown too far beyond. That saves a comparison for every
// score, a fifth of all instructions of a step (`fwd_sm90.md`).
#pragma once

#include "parts/softmax.cuh"

namespace fa3 {

// A thread's share of a block's sum from which on the reference is raised. fp16 holds 8 times as much.
constexpr float kHigh = 8192.f;  // 2^13
// The share from which on it is too late, since infinity is near: the tile is computed again, carefully.
constexpr float kOutrun = 18446744073709551616.f;  // 2^64

struct SteadySoftmax {
    float reference[2];  // what is subtracted from the scaled scores, base 2; -inf: no key seen yet
    float row_sum[2];    // this thread's share; summed over the quad at the end
    float block_sum[2];  // of the last block
    float scale_log2;    // |softmax_scale| * log2(e)

    CUTE_DEVICE explicit SteadySoftmax(float scale) : scale_log2(scale) {
        reference[0] = reference[1] = -infinity();
        row_sum[0] = row_sum[1] = 0.f;
    }

    // Gives rows that have none their reference: the maximum of these scores, or still none if these are -inf.
    template <int Count>
    CUTE_DEVICE void adopt(float const (&s)[Count]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            float const peak = row_peak(s, row) * scale_log2;
            reference[row] = reference[row] == -infinity() ? peak : reference[row];
        }
    }

    // Turns scores into P = exp2(scale_log2 * s - reference), in place, and adds them up.
    template <int Count>
    CUTE_DEVICE void exponentiate(float (&s)[Count]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            block_sum[row] = 0.f;
            exponentiate_row(s, row, scale_log2, offset_of(row), block_sum[row]);
            row_sum[row] += block_sum[row];
        }
    }

    // Whether a row of this thread has no reference yet: it saw no key, or scores of -inf alone.
    CUTE_DEVICE bool is_bare() const { return fminf(reference[0], reference[1]) == -infinity(); }

    // Whether a row of this thread has grown high in its last block.
    CUTE_DEVICE bool is_high() const { return fmaxf(block_sum[0], block_sum[1]) > kHigh; }

    // Whether a row of this thread has grown beyond what raise() can mend.
    CUTE_DEVICE bool is_late() const { return fmaxf(block_sum[0], block_sum[1]) > kOutrun; }

    // Raises the references of rows that are high, by whole powers of two: no sum is rounded. `factor`: by what O, and P
    // where it is not in O yet, must be multiplied. True when it is too late for a row of this thread.
    CUTE_DEVICE bool raise(float (&factor)[2]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            float const most = quad_max(block_sum[row]);
            int const exponent = most > kHigh ? __float_as_int(most) >> 23 : 127;
            factor[row] = __uint_as_float(uint32_t(254 - exponent) << 23);
            reference[row] += float(exponent - 127);
            row_sum[row] *= factor[row];
        }
        return is_late();
    }

    // For the second time over a tile: rows that were too late the first time, or had no reference, get the maximum of
    // these scores. All others keep theirs, and the same bits. `factor`: by what O must be multiplied.
    template <int Count>
    CUTE_DEVICE void follow(float const (&s)[Count], float (&factor)[2]) {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            float const offset = offset_of(row);
            float sum = 0.f;
            CUTE_UNROLL
            for (int i = 2 * row; i < Count; i += 4) {
                sum += exp2_approx(s[i] * scale_log2 - offset);
                sum += exp2_approx(s[i + 1] * scale_log2 - offset);
            }
            float const peak = row_peak(s, row) * scale_log2;
            bool const bare = reference[row] == -infinity();
            factor[row] = 1.f;
            if (quad_max(sum) > kOutrun || bare) {
                factor[row] = bare ? 1.f : exp2_approx(reference[row] - peak);
                row_sum[row] *= factor[row];
                reference[row] = peak;
            }
        }
    }

    // Divides O by the row sums and gives the LSE: see end_row. `factor`: what raise() said and O has not seen.
    template <int Count>
    CUTE_DEVICE void finish(float const (&sinks_log2)[2], float (&factor)[2], float (&o)[Count], float (&lse)[2]) const {
        CUTE_UNROLL
        for (int row = 0; row < 2; ++row) {
            RowEnd const end = end_row(reference[row], row_sum[row], sinks_log2[row]);
            factor[row] *= end.factor;
            lse[row] = end.lse;
        }
        rescale_rows(o, factor);
    }

private:
    // A row that is masked so far throughout has -inf there, and -inf - -inf is no number.
    CUTE_DEVICE float offset_of(int row) const { return reference[row] == -infinity() ? 0.f : reference[row]; }
};

}  // namespace fa3
