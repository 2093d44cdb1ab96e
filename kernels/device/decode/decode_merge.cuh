// Sums over different keys joined into one. A thread holds columns of one query row.
//
// Source of the formula: FlashAttention-2, algorithm 1, with O kept unnormalised.
#pragma once

#include "parts/math.cuh"

namespace fa3 {

// `reference`: maximum of the unscaled scores, or less by up to the lag (`parts/online_softmax.cuh`); -inf: no visible
// key. `sum`: of exp2(scale_log2 * (score - reference)).
struct RowSums {
    float reference;
    float sum;
};

// Factor of sums over `reference` that join those over `most`.
CUTE_DEVICE float weight_of(float reference, float most, float scale_log2) {
    return reference == -infinity() ? 0.f : exp2_approx((reference - most) * scale_log2);
}

// Columns of O of one row with the row's sums.
template <int Count>
struct RowPart {
    RowSums row;
    float o[Count];

    // To the sums over no key.
    CUTE_DEVICE void clear() {
        row = {-infinity(), 0.f};
        CUTE_UNROLL
        for (int i = 0; i < Count; ++i) o[i] = 0.f;
    }

    // Explicit operations: the bits must not depend on the place that a part is read from.
    CUTE_DEVICE void join(RowPart const& other, float scale_log2) {
        float const most = fmaxf(row.reference, other.row.reference);
        float const own = weight_of(row.reference, most, scale_log2);
        float const theirs = weight_of(other.row.reference, most, scale_log2);
        row = {most, fmaf(other.row.sum, theirs, row.sum * own)};
        CUTE_UNROLL
        for (int i = 0; i < Count; ++i) o[i] = fmaf(other.o[i], theirs, o[i] * own);
    }
};

}  // namespace fa3
