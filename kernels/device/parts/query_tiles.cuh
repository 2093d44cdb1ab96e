// Tiles of query rows in the workspace of the backward pass.
#pragma once

#include "params/bwd.h"
#include "parts/work_item.cuh"

namespace fa3 {

// Rows of one sequence of queries or keys, in a packed tensor or a slot of a dense one.
struct SequenceRows {
    int start;   // first row in a packed tensor; else 0
    int length;  // rows in use
    int slot;    // rows up to the next sequence, unused ones included
};

CUTE_DEVICE SequenceRows sequence_of(int batch, int const* cu_seqlens, int const* seqused, int longest) {
    int const slot = sequence_length(batch, cu_seqlens, nullptr, longest);
    return {cu_seqlens ? cu_seqlens[batch] : 0, seqused ? min(seqused[batch], slot) : slot, slot};
}
CUTE_DEVICE SequenceRows queries_of(BwdParams const& p, int batch) {
    return sequence_of(batch, p.sequences.cu_seqlens_q, p.sequences.seqused_q, p.sizes.seqlen_q);
}
CUTE_DEVICE SequenceRows keys_of(BwdParams const& p, int batch) {
    return sequence_of(batch, p.sequences.cu_seqlens_k, p.sequences.seqused_k, p.sizes.seqlen_k);
}

// Index of a sequence's first tile among those of one head. Packed sequences start at any row: one tile more for each
// sequence before this one makes room for its last, partly filled tile.
CUTE_DEVICE fa3_i64 first_tile(BwdParams const& p, int batch) {
    if (p.sequences.cu_seqlens_q == nullptr) return fa3_i64(batch) * p.tiles_m;
    return p.sequences.cu_seqlens_q[batch] / p.workspace.tile_m + batch;
}

CUTE_DEVICE fa3_i64 workspace_tile(BwdParams const& p, int batch, int head, int tile) {
    return fa3_i64(head) * p.workspace.tiles + first_tile(p, batch) + tile;
}

// Place of a row's LSE and delta within its tile: those of the accumulator columns of one lane (2 l, 2 l + 1, 8 + 2 l, ...
// with l = lane % 4) are neighbours, so that a lane reads four at once.
CUTE_DEVICE int statistics_place(int row, int tile_m) { return row % 8 / 2 * (tile_m / 4) + row / 8 * 2 + row % 2; }

}  // namespace fa3
