// Row of a tile -> position and query head. With grouped-query attention, `pack_gqa` query heads may share a tile; its
// rows are (position, head) pairs, the head fastest.
#pragma once

#include "parts/work_item.cuh"

namespace fa3 {

struct QueryRow {
    int position;
    int head;
};

// `row`: counted from the sequence's first. For any number of heads.
CUTE_DEVICE QueryRow query_row(TileParams const& tiles, WorkItem const& item, int row) {
    int const position = row / tiles.pack_gqa;
    return {position, item.head + row - position * tiles.pack_gqa};
}

// For a power of two. In the epilogue of an sm_90 kernel a division has the cost of a branch
// (`arch/sm80/predicated_store.cuh`).
CUTE_DEVICE QueryRow query_row_by_shift(TileParams const& tiles, WorkItem const& item, int row) {
    return {row >> tiles.pack_shift, item.head + (row & (tiles.pack_gqa - 1))};
}

// Rows of the item's sequence.
CUTE_DEVICE int row_count(TileParams const& tiles, WorkItem const& item) {
    return item.seqlen_q * tiles.pack_gqa;
}

}  // namespace fa3
