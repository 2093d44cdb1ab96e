// Queries that see a key: the inverse of `parts/mask.cuh`.
#pragma once

#include "params/mask.h"
#include "parts/mask.cuh"

namespace fa3 {

// Queries [begin, end); empty when begin >= end. Both rise with the key.
struct QueryRange {
    int begin;
    int end;
};

CUTE_DEVICE QueryRange queries_that_see(MaskParams const& mask, int key, int seqlen_q, int seqlen_k) {
    int const diagonal = key + seqlen_q - seqlen_k;
    QueryRange range{0, seqlen_q};
    if (mask.window_right >= 0) range.begin = max(range.begin, diagonal - mask.window_right);
    if (mask.window_left >= 0) range.end = min(range.end, diagonal + 1 + mask.window_left);
    if (mask.attention_chunk > 0) {
        int const first = diagonal - key % mask.attention_chunk;
        range.begin = max(range.begin, first);
        range.end = min(range.end, first + mask.attention_chunk);
    }
    return range;
}

}  // namespace fa3
