// How the query rows of a call are divided into tiles, and in which order.
#pragma once

#include "params/integers.h"

namespace fa3 {

// With grouped-query attention, query heads that share their keys may share a tile. Its rows are then (position, query head
// of the group) pairs, the head fastest.
struct TileParams {
    fa3_i32 pack_gqa;      // query heads that share a tile: 1, or all of a key head
    fa3_i32 pack_shift;    // log2(pack_gqa) of a power of two; kernels with tensor maps take no other pack_gqa
    fa3_i32 value_slices;  // tiles that share a row's columns of v and out
    fa3_i32 tiles_m;       // ceil(seqlen_q * pack_gqa / tile_m)
    fa3_i32 count;         // tiles_m * (heads_q / pack_gqa) * value_slices * batch; an upper bound when q is ragged
    fa3_i32 l2_heads;      // (head, slice) pairs that are computed together, so that K and V share the L2
};

}  // namespace fa3
