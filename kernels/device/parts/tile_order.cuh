// Order of the tiles of a call: index of a tile -> work item.
//
// A unit is a (head, slice) pair: a query head, or the query heads that share tiles (pack_gqa), and a slice of the
// columns of v and out. Dense batches: tiles are numbered section by section. A section is `l2_heads` units, whose K
// and V fit into the L2 together. Within a section the last query tiles of all units come first, so that under a causal
// mask the longest work items start earliest. Ragged batches: by sequence, then unit, last tile first.
#pragma once

#include "parts/work_item.cuh"

namespace fa3 {

// All lanes of a warp call `find` together. Indices never decrease from one call to the next.
template <MaskClass kMask, int TileM, int TileN>
struct TileOrder {
    WorkParams p;
    int first_batch = 0;   // of the 32 sequences that the warp holds
    int tiles_before = 0;  // tiles of all sequences before these

    CUTE_DEVICE int units() const { return quotient(p.sizes.heads_q, p.tiles.pack_gqa) * p.tiles.value_slices; }

    CUTE_DEVICE WorkItem item(int batch, int unit, int tile) const {
        return make_work_item<kMask, TileM, TileN>(p, batch, unit, tile);
    }

    CUTE_DEVICE WorkItem find(int index) {
        if (p.storage.ragged_q == 0) return find_dense(index);
        return find_ragged(index);
    }

    CUTE_DEVICE WorkItem find_dense(int index) const {
        if (index >= p.tiles.count) return {-1};
        int const per_section = p.tiles.l2_heads * p.tiles.tiles_m;
        int const section = index / per_section;
        int const within = index - section * per_section;
        int const first_unit = section * p.tiles.l2_heads;
        int const count = min(p.tiles.l2_heads, units() * p.sizes.batch - first_unit);
        int const from_end = quotient(within, count);
        int const flat_unit = first_unit + within - from_end * count;
        int const batch = flat_unit / units();
        return item(batch, flat_unit - batch * units(), p.tiles.tiles_m - 1 - from_end);
    }

    // Prefix sum over the tiles of 32 sequences at a time, one per lane.
    CUTE_DEVICE WorkItem find_ragged(int index) {
        int const lane = cutlass::canonical_lane_idx();
        while (first_batch < p.sizes.batch) {
            int const batch = first_batch + lane;
            int own = 0;
            if (batch < p.sizes.batch) {
                int const rows =
                    sequence_length(batch, p.sequences.cu_seqlens_q, p.sequences.seqused_q, p.sizes.seqlen_q);
                own = (rows * p.tiles.pack_gqa + TileM - 1) / TileM * units();
            }
            int through = own;
            CUTE_UNROLL
            for (int step = 1; step < 32; step *= 2) {
                int const below = __shfl_up_sync(0xFFFFFFFF, through, step);
                if (lane >= step) through += below;
            }
            uint32_t const reached = __ballot_sync(0xFFFFFFFF, index < tiles_before + through);
            if (reached != 0) {
                int const owner = __ffs(reached) - 1;
                int const count = __shfl_sync(0xFFFFFFFF, own, owner);
                int const within = index - tiles_before - (__shfl_sync(0xFFFFFFFF, through, owner) - count);
                int const tiles_m = count / units();
                int const unit = within / tiles_m;
                return item(first_batch + owner, unit, tiles_m - 1 - (within - unit * tiles_m));
            }
            tiles_before += __shfl_sync(0xFFFFFFFF, through, 31);
            first_batch += 32;
        }
        return {-1};
    }
};

}  // namespace fa3
