// Which keys a query row may see.
#pragma once

#include "softmax.cuh"

namespace fa3 {

// Keys [0, limit) are visible to query `row`. Causal masks are aligned bottom right: the last query sees every key.
template <bool Causal>
CUTE_DEVICE int visible_keys(int row, int seqlen_q, int seqlen_k) {
    if constexpr (Causal) return min(seqlen_k, row + 1 + seqlen_k - seqlen_q);
    return seqlen_k;
}

// Sets the scores of invisible keys to -inf. `first_key`: the key of this thread's element 0, column 0 of the
// block plus 2 * (lane % 4); `limit`: visible_keys of this thread's two rows.
template <int Count>
CUTE_DEVICE void mask_scores(float (&s)[Count], int first_key, int const (&limit)[2]) {
    CUTE_UNROLL
    for (int row = 0; row < 2; ++row) {
        int const visible = limit[row] - first_key;
        CUTE_UNROLL
        for (int i = 0; i < Count; i += 4) {
            CUTE_UNROLL
            for (int j = 0; j < 2; ++j) {
                if (2 * i + j >= visible) s[i + 2 * row + j] = -infinity();
            }
        }
    }
}

}  // namespace fa3
