// Work item of bwd_queries: a tile of queries of one query head, with the blocks of keys that it sees.
#pragma once

#include "params/bwd.h"
#include "parts/key_tile.cuh"
#include "parts/mask.cuh"
#include "parts/query_tiles.cuh"

namespace fa3 {

struct QueryBlock {
    SequenceRows queries;
    SequenceRows keys;
    int batch;
    int head;
    int head_kv;
    int first_query;
    KeyRange seen;  // keys that any query of the sequence sees; the rows of k and v outside may hold anything
    int block_begin;
    int block_end;
    int whole_begin;  // blocks of keys that all queries of this tile see
    int whole_end;

    CUTE_DEVICE bool is_masked(int block) const { return block < whole_begin || block >= whole_end; }
};

// Sections of the query heads of `l2_heads` (batch, key head) pairs; within a section the last tiles of all heads come first,
// which are the longest under a causal mask. Written field by field, as find_key_tile does.
template <int TileM, int TileN>
CUTE_DEVICE void find_query_block(BwdParams const& p, int index, QueryBlock& at) {
    {
        int const tiles = (p.tiles_m * p.workspace.tile_m + TileM - 1) / TileM;
        int const heads = p.l2_heads * (p.sizes.heads_q / p.sizes.heads_kv);
        int const section = index / (heads * tiles);
        int const within = index - section * (heads * tiles);
        int const of_section = min(heads, p.sizes.batch * p.sizes.heads_q - section * heads);
        int const row = within / of_section;
        int const flat_head = section * heads + within - row * of_section;
        at.first_query = (tiles - 1 - row) * TileM;
        at.batch = flat_head / p.sizes.heads_q;
        at.head = flat_head - at.batch * p.sizes.heads_q;
    }
    flush_registers();
    at.head_kv = at.head / (p.sizes.heads_q / p.sizes.heads_kv);
    flush_registers();
    at.queries = queries_of(p, at.batch);
    flush_registers();
    at.keys = keys_of(p, at.batch);
    flush_registers();
    at.seen.begin = visible_keys<MaskClass::kLocal>(p.mask, 0, at.queries.length, at.keys.length).begin;
    flush_registers();
    at.seen.end = visible_keys<MaskClass::kLocal>(p.mask, at.queries.length - 1, at.queries.length, at.keys.length).end;
    at.block_begin = at.block_end = at.whole_begin = at.whole_end = 0;
    flush_registers();
    if (at.first_query >= at.queries.length) return;
    {
        KeyRange const first = visible_keys<MaskClass::kLocal>(p.mask, at.first_query, at.queries.length, at.keys.length);
        at.block_begin = first.begin / TileN;
        at.whole_end = max(0, first.end) / TileN;
    }
    flush_registers();
    int const last_query = min(at.first_query + TileM, at.queries.length) - 1;
    KeyRange const last = visible_keys<MaskClass::kLocal>(p.mask, last_query, at.queries.length, at.keys.length);
    at.block_end = (max(0, last.end) + TileN - 1) / TileN;
    at.whole_begin = (last.begin + TileN - 1) / TileN;
}

}  // namespace fa3
