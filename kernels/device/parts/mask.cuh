// Visible keys of a query row, and the masking of scores. Masks are aligned bottom right: the last query lies at the
// last key.
#pragma once

#include "params/mask.h"
#include "parts/math.cuh"

namespace fa3 {

// Compiled into a kernel. kLocal: window_left, window_right and attention_chunk, each if present; causal is
// window_right = 0.
enum class MaskClass { kFull, kCausal, kLocal };

// Keys, or blocks of keys, [begin, end); empty when begin >= end.
struct KeyRange {
    int begin;
    int end;
};

// Keys that the query at `position` sees, counted from the first key of its sequence. One interval for every mask.
template <MaskClass kMask>
CUTE_DEVICE KeyRange visible_keys(MaskParams const& mask, int position, int seqlen_q, int seqlen_k) {
    int const diagonal = position + seqlen_k - seqlen_q;
    if constexpr (kMask == MaskClass::kFull) return {0, seqlen_k};
    if constexpr (kMask == MaskClass::kCausal) return {0, min(seqlen_k, diagonal + 1)};
    KeyRange range{0, seqlen_k};
    if (mask.window_left >= 0) range.begin = max(range.begin, diagonal - mask.window_left);
    if (mask.window_right >= 0) range.end = min(range.end, diagonal + 1 + mask.window_right);
    if (mask.attention_chunk > 0) {
        int const chunk = mask.attention_chunk;
        int const first = (diagonal >= 0 ? diagonal / chunk : -((chunk - 1 - diagonal) / chunk)) * chunk;
        range.begin = max(range.begin, first);
        range.end = min(range.end, first + chunk);
    }
    return range;
}

// First key that any query of a sequence sees; the rows of k and v before it may hold anything.
template <MaskClass kMask>
CUTE_DEVICE int first_seen_key(MaskParams const& mask, int seqlen_q, int seqlen_k) {
    return visible_keys<kMask>(mask, 0, seqlen_q, seqlen_k).begin;
}

// The functions below set scores of hidden keys to -inf. `first_key`: key of element 0 of this thread, which is the
// first key of the block plus 2 * (lane % 4); `visible`: keys that the two rows of this thread see.
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

// Keys from the end of the visible range on.
template <int Count>
CUTE_DEVICE void hide_keys_after(float (&s)[Count], int first_key, KeyRange const (&visible)[2]) {
    int const ends[2] = {visible[0].end - first_key, visible[1].end - first_key};
    hide_keys(s, [&](int row, int key) { return key >= ends[row]; });
}

// Keys before the visible range.
template <int Count>
CUTE_DEVICE void hide_keys_before(float (&s)[Count], int first_key, KeyRange const (&visible)[2]) {
    int const begins[2] = {visible[0].begin - first_key, visible[1].begin - first_key};
    hide_keys(s, [&](int row, int key) { return key < begins[row]; });
}

template <MaskClass kMask, int Count>
CUTE_DEVICE void mask_scores(float (&s)[Count], int first_key, KeyRange const (&visible)[2]) {
    hide_keys_after(s, first_key, visible);
    if constexpr (kMask == MaskClass::kLocal) hide_keys_before(s, first_key, visible);
}

}  // namespace fa3
