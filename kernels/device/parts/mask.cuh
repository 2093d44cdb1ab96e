// Which keys a query row may see. Masks are aligned bottom right: the last query sits at the last key.
#pragma once

#include "params/fwd.h"
#include "parts/softmax.cuh"

namespace fa3 {

enum class Mask { kFull, kCausal, kLocal };

// Keys [begin, end) are visible; empty when begin >= end.
struct KeyRange {
    int begin;
    int end;
};

// kLocal: window_left, window_right and attention_chunk, each if present; causal is window_right = 0.
template <Mask kMask>
CUTE_DEVICE KeyRange visible_keys(FwdParams const& p, int row, int seqlen_q, int seqlen_k) {
    int const position = row + seqlen_k - seqlen_q;
    if constexpr (kMask == Mask::kFull) return {0, seqlen_k};
    if constexpr (kMask == Mask::kCausal) return {0, min(seqlen_k, position + 1)};
    KeyRange range{0, seqlen_k};
    if (p.mask.window_left >= 0) range.begin = max(range.begin, position - p.mask.window_left);
    if (p.mask.window_right >= 0) range.end = min(range.end, position + 1 + p.mask.window_right);
    if (p.mask.attention_chunk > 0) {
        int const chunk = p.mask.attention_chunk;
        int const first = (position >= 0 ? position / chunk : -((chunk - 1 - position) / chunk)) * chunk;
        range.begin = max(range.begin, first);
        range.end = min(range.end, first + chunk);
    }
    return range;
}

// Set the scores of invisible keys to -inf. `first_key`: the key of this thread's element 0, column 0 of the block plus
// 2 * (lane % 4); `visible`: of this thread's two rows.
template <int Count, class IsHidden>
CUTE_DEVICE void hide_keys(float (&s)[Count], IsHidden const& is_hidden) {
    CUTE_UNROLL
    for (int row = 0; row < 2; ++row) {
        CUTE_UNROLL
        for (int i = 0; i < Count; i += 4) {
            CUTE_UNROLL
            for (int j = 0; j < 2; ++j) {
                if (is_hidden(row, 2 * i + j)) s[i + 2 * row + j] = -infinity();
            }
        }
    }
}

// Keys behind the last visible one.
template <int Count>
CUTE_DEVICE void hide_ends(float (&s)[Count], int first_key, KeyRange const (&visible)[2]) {
    int const ends[2] = {visible[0].end - first_key, visible[1].end - first_key};
    hide_keys(s, [&](int row, int key) { return key >= ends[row]; });
}

// Keys before the first.
template <int Count>
CUTE_DEVICE void hide_begins(float (&s)[Count], int first_key, KeyRange const (&visible)[2]) {
    int const begins[2] = {visible[0].begin - first_key, visible[1].begin - first_key};
    hide_keys(s, [&](int row, int key) { return key < begins[row]; });
}

template <Mask kMask, int Count>
CUTE_DEVICE void mask_scores(float (&s)[Count], int first_key, KeyRange const (&visible)[2]) {
    hide_ends(s, first_key, visible);
    if constexpr (kMask == Mask::kLocal) hide_begins(s, first_key, visible);
}

}  // namespace fa3
