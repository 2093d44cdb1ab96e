// Work item: one tile of query rows of one sequence and head, with the blocks of keys that it visits.
#pragma once

#include "params/sequences.h"
#include "params/sizes.h"
#include "params/storage.h"
#include "params/tiles.h"
#include "parts/mask.cuh"

namespace fa3 {

// Blocks of keys [block_begin, block_end) are visited last to first. There is always one: a tile without visible keys
// visits the block behind the last key, which loads as zeros and is masked.
struct WorkItem {
    int head;  // query head, or the first of those that share the tile; negative: no work is left
    int slice;  // of the columns of v and out
    int batch;
    int first_row;  // position; with shared tiles index of a (position, head) pair
    int seqlen_q;
    int seqlen_k;
    int start_q;  // first row of the sequence in a packed or ragged tensor
    int start_k;  // in a packed tensor
    int block_begin;
    int block_end;
};

// Most calls have one slice and no shared tiles: a comparison saves them a division.
CUTE_DEVICE int quotient(int value, int by) { return by == 1 ? value : value / by; }

// Rows in use of a sequence.
CUTE_DEVICE int sequence_length(int index, int const* cu_seqlens, int const* seqused, int longest) {
    int const length = cu_seqlens ? cu_seqlens[index + 1] - cu_seqlens[index] : longest;
    return seqused ? min(seqused[index], length) : length;
}

// Parameters of a kernel that decide its work items. References, so that a parameter is loaded where it is used.
struct WorkParams {
    SequenceParams const& sequences;
    SizeParams const& sizes;
    StorageParams const& storage;
    MaskParams const& mask;
    TileParams const& tiles;
};

// `unit`: index of a (head, slice) pair of the sequence (`parts/tile_order.cuh`); `tile`: index of its query tile.
template <MaskClass kMask, int TileM, int TileN>
CUTE_DEVICE WorkItem make_work_item(WorkParams const& p, int batch, int unit, int tile) {
    WorkItem item;
    int const group = quotient(unit, p.tiles.value_slices);
    item.head = group * p.tiles.pack_gqa;
    item.slice = unit - group * p.tiles.value_slices;
    item.batch = batch;
    item.first_row = tile * TileM;
    item.seqlen_q = sequence_length(batch, p.sequences.cu_seqlens_q, p.sequences.seqused_q, p.sizes.seqlen_q);
    item.seqlen_k = sequence_length(batch, p.sequences.cu_seqlens_k, p.sequences.seqused_k, p.sizes.seqlen_k);
    item.start_q = p.sequences.cu_seqlens_q ? p.sequences.cu_seqlens_q[batch] : batch * p.storage.rows_per_batch_q;
    item.start_k = p.sequences.cu_seqlens_k ? p.sequences.cu_seqlens_k[batch] : 0;
    int const first = quotient(item.first_row, p.tiles.pack_gqa);
    int const last = min(item.seqlen_q - 1, quotient(item.first_row + TileM - 1, p.tiles.pack_gqa));
    int const begin = visible_keys<kMask>(p.mask, first, item.seqlen_q, item.seqlen_k).begin;
    int const end = visible_keys<kMask>(p.mask, last, item.seqlen_q, item.seqlen_k).end;
    int const behind = max(1, (item.seqlen_k + TileN - 1) / TileN);  // tensor maps have at least one row
    item.block_begin = begin < end ? begin / TileN : behind;
    item.block_end = begin < end ? (end + TileN - 1) / TileN : behind + 1;
    return item;
}

}  // namespace fa3
