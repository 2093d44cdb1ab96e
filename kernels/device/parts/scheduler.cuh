// Persistent tile scheduling: which query tile a thread block works on next, and what lies under it.
//
// Tiles are counted per unit: a query head, or all of a key head that share tiles (pack_gqa), times a slice of the
// columns of v and out. Dense batches: tiles are numbered section by section. A section is a group of `l2_heads` units
// whose K and V fit in the L2 together; inside it the last query tiles come first, so that under a causal mask the
// longest work starts earliest. Ragged batches: sequence by sequence, unit by unit, last tile first.
#pragma once

#include "params/fwd.h"
#include "parts/mask.cuh"

namespace fa3 {

// One tile as producer and consumers see it. Keys are visited in blocks [block_begin, block_end), last first. There is
// always one: a tile that sees no key visits the block after the last, which TMA fills with zeros and the mask hides.
struct Work {
    int head;  // query head, or the first of those that share the tile; negative: there is no more work
    int slice;
    int batch;
    int first_row;  // a position, or a (position, head) pair
    int seqlen_q;
    int seqlen_k;
    int start_q;  // first row of the sequence in a ragged operand
    int start_k;
    int block_begin;
    int block_end;
};

CUTE_DEVICE int length_of(int index, int const* cu_seqlens, int const* used, int longest) {
    int const length = cu_seqlens ? cu_seqlens[index + 1] - cu_seqlens[index] : longest;
    return used ? min(used[index], length) : length;
}

// Divisions take long, and most calls need none: one slice, no heads sharing a tile.
CUTE_DEVICE int quotient(int value, int by) { return by == 1 ? value : value / by; }

CUTE_DEVICE int units(FwdParams const& p) { return quotient(p.sizes.heads_q, p.tiles.pack_gqa) * p.tiles.value_slices; }

template <Mask kMask, int TileM, int TileN>
CUTE_DEVICE Work work_of(FwdParams const& p, int batch, int unit, int m) {
    Work work;
    int const group = quotient(unit, p.tiles.value_slices);
    work.head = group * p.tiles.pack_gqa;
    work.slice = unit - group * p.tiles.value_slices;
    work.batch = batch;
    work.first_row = m * TileM;
    work.seqlen_q = length_of(batch, p.sequences.cu_seqlens_q, p.sequences.seqused_q, p.sizes.seqlen_q);
    work.seqlen_k = length_of(batch, p.sequences.cu_seqlens_k, p.sequences.seqused_k, p.sizes.seqlen_k);
    work.start_q = p.sequences.cu_seqlens_q ? p.sequences.cu_seqlens_q[batch] : batch * p.storage.rows_per_batch_q;
    work.start_k = p.sequences.cu_seqlens_k ? p.sequences.cu_seqlens_k[batch] : batch * p.storage.rows_per_batch_k;
    int const first = quotient(work.first_row, p.tiles.pack_gqa);
    int const last = min(work.seqlen_q - 1, quotient(work.first_row + TileM - 1, p.tiles.pack_gqa));
    int const begin = visible_keys<kMask>(p, first, work.seqlen_q, work.seqlen_k).begin;
    int const end = visible_keys<kMask>(p, last, work.seqlen_q, work.seqlen_k).end;
    int const after = max(1, (work.seqlen_k + TileN - 1) / TileN);  // no map is shorter than a row
    work.block_begin = begin < end ? begin / TileN : after;
    work.block_end = begin < end ? (end + TileN - 1) / TileN : after + 1;
    return work;
}

// Finds the tile of a number. All lanes of one warp call it together, with numbers that never fall.
template <Mask kMask, int TileM, int TileN>
struct TileFinder {
    int first_batch = 0;   // of the 32 sequences the warp looks at
    int tiles_before = 0;  // in sequences before them

    CUTE_DEVICE Work find(FwdParams const& p, int index) {
        if (p.storage.ragged_q == 0) return find_dense(p, index);
        return find_ragged(p, index);
    }

    CUTE_DEVICE Work find_dense(FwdParams const& p, int index) const {
        if (index >= p.tiles.count) return {-1};
        int const per_section = p.tiles.l2_heads * p.tiles.tiles_m;
        int const section = index / per_section;
        int const within = index - section * per_section;
        int const first_unit = section * p.tiles.l2_heads;
        int const count = min(p.tiles.l2_heads, units(p) * p.sizes.batch - first_unit);
        int const from_end = quotient(within, count);
        int const flat_unit = first_unit + within - from_end * count;
        int const batch = flat_unit / units(p);
        return work_of<kMask, TileM, TileN>(p, batch, flat_unit - batch * units(p), p.tiles.tiles_m - 1 - from_end);
    }

    CUTE_DEVICE Work find_ragged(FwdParams const& p, int index) {
        int const lane = cutlass::canonical_lane_idx();
        while (first_batch < p.sizes.batch) {
            int const batch = first_batch + lane;
            int tiles = 0;
            if (batch < p.sizes.batch) {
                int const rows = length_of(batch, p.sequences.cu_seqlens_q, p.sequences.seqused_q, p.sizes.seqlen_q);
                tiles = (rows * p.tiles.pack_gqa + TileM - 1) / TileM * units(p);
            }
            int through = tiles;
            CUTE_UNROLL
            for (int step = 1; step < 32; step *= 2) {
                int const below = __shfl_up_sync(0xFFFFFFFF, through, step);
                if (lane >= step) through += below;
            }
            uint32_t const holds = __ballot_sync(0xFFFFFFFF, index < tiles_before + through);
            if (holds != 0) {
                int const owner = __ffs(holds) - 1;
                int const own = __shfl_sync(0xFFFFFFFF, tiles, owner);
                int const within = index - tiles_before - (__shfl_sync(0xFFFFFFFF, through, owner) - own);
                int const tiles_m = own / units(p);
                int const unit = within / tiles_m;
                return work_of<kMask, TileM, TileN>(p, first_batch + owner, unit,
                                                    tiles_m - 1 - (within - unit * tiles_m));
            }
            tiles_before += __shfl_sync(0xFFFFFFFF, through, 31);
            first_batch += 32;
        }
        return {-1};
    }
};

// The first tile of a block is its own number; the rest come from the queue. Called by one warp. Taking the ticket and
// reading it are two steps, so that the queue's latency can pass while the tile before is loaded.
struct Ticket {
    int taken = 0;

    CUTE_DEVICE void take(FwdParams const& p) {
        if (cutlass::canonical_lane_idx() == 0) taken = static_cast<int>(atomicAdd(&p.queue->next, 1u));
    }
    CUTE_DEVICE int read() const { return static_cast<int>(gridDim.x) + __shfl_sync(0xFFFFFFFF, taken, 0); }
};

// Called once by every block when it found no more tiles; the last one leaves the queue as it was before the launch.
CUTE_DEVICE void retire(FwdParams const& p) {
    if (cutlass::canonical_lane_idx() == 0 && atomicAdd(&p.queue->done, 1u) == gridDim.x - 1) {
        p.queue->next = 0;
        p.queue->done = 0;
    }
}

}  // namespace fa3
