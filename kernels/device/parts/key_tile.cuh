// Work item of the backward pass: a tile of keys of one key head, with the tiles of queries that see it.
#pragma once

#include "params/bwd.h"
#include "parts/mask.cuh"
#include "parts/query_mask.cuh"
#include "parts/query_tiles.cuh"

namespace fa3 {

// One step: a tile of queries of one query head.
struct QueryTile {
    int head;
    int tile;
};

// A step with its index and its tile's place in the workspace, for loops over all steps.
struct QueryStep {
    int index;
    int head;
    int tile;
    int place;
};

struct KeyTile {
    SequenceRows queries;
    SequenceRows keys;
    int batch;
    int head_kv;
    int first_key;
    KeyRange seen;  // keys that any query sees; the rows of k and v outside may hold anything
    int tile_begin;
    int tile_end;
    int whole_begin;  // tiles of queries that see all keys of this tile
    int whole_end;
    int first_place;  // in the workspace, of the tile of the first step

    // Steps over the tiles of queries of all query heads, `group` for a key head.
    CUTE_DEVICE int steps(int group) const { return max(0, tile_end - tile_begin) * group; }
    CUTE_DEVICE QueryTile step(int index, int group) const {
        int const of_head = tile_end - tile_begin;
        int const of_group = index / of_head;
        return {head_kv * group + of_group, tile_begin + index - of_group * of_head};
    }
    CUTE_DEVICE QueryStep first_step(int group) const { return {0, head_kv * group, tile_begin, first_place}; }
    CUTE_DEVICE void advance(QueryStep& step, int tiles) const {
        ++step.index;
        ++step.tile;
        ++step.place;
        if (step.tile < tile_end) return;
        ++step.head;
        step.tile = tile_begin;
        step.place += tiles - (tile_end - tile_begin);
    }
    // Whether some query of a tile does not see all keys of this tile.
    CUTE_DEVICE bool is_masked(int tile) const { return tile < whole_begin || tile >= whole_end; }
    // Of a key of this tile, which may lie behind the last one.
    CUTE_DEVICE QueryRange queries_of_key(MaskParams const& mask, int key) const {
        QueryRange range = queries_that_see(mask, key, queries.length, keys.length);
        if (key >= keys.length) range.end = 0;
        return range;
    }
};

// Behind it, values in memory are loaded again, so that none is kept in a register across it.
CUTE_DEVICE void flush_registers() { asm volatile("" ::: "memory"); }

// Sections of `l2_heads` (batch, key head) pairs; within a section the first tiles of all pairs come first, which are the
// longest under a causal mask. A tile of keys never comes before a lower one of its head (`parts/turns.cuh`).
// Written field by field to `at`, in shared memory, and read again from there: the caller is short of registers.
template <int TileM, int TileN>
CUTE_DEVICE void find_key_tile(BwdParams const& p, int index, KeyTile& at) {
    {
        int const per_section = p.l2_heads * p.tiles_n;
        int const section = index / per_section;
        int const within = index - section * per_section;
        int const pairs = min(p.l2_heads, p.sizes.batch * p.sizes.heads_kv - section * p.l2_heads);
        int const tile = within / pairs;
        int const pair = section * p.l2_heads + within - tile * pairs;
        at.first_key = tile * TileN;
        at.batch = pair / p.sizes.heads_kv;
        at.head_kv = pair - at.batch * p.sizes.heads_kv;
    }
    flush_registers();
    at.queries = queries_of(p, at.batch);
    flush_registers();
    at.keys = keys_of(p, at.batch);
    flush_registers();
    at.seen.begin = visible_keys<MaskClass::kLocal>(p.mask, 0, at.queries.length, at.keys.length).begin;
    flush_registers();
    at.seen.end = visible_keys<MaskClass::kLocal>(p.mask, at.queries.length - 1, at.queries.length, at.keys.length).end;
    at.tile_begin = at.tile_end = at.whole_begin = at.whole_end = at.first_place = 0;
    flush_registers();
    int const last_key = min(at.first_key + TileN, at.keys.length) - 1;
    if (last_key < at.first_key) return;
    {
        QueryRange const first = queries_that_see(p.mask, at.first_key, at.queries.length, at.keys.length);
        at.tile_begin = first.begin / TileM;
        at.whole_end = first.end;
    }
    flush_registers();
    {
        QueryRange const last = queries_that_see(p.mask, last_key, at.queries.length, at.keys.length);
        at.tile_end = (max(last.end, 0) + TileM - 1) / TileM;
        at.whole_begin = (last.begin + TileM - 1) / TileM;
    }
    flush_registers();
    at.whole_end = at.whole_end >= at.queries.length ? at.tile_end : at.whole_end / TileM;
    if (last_key < at.first_key + TileN - 1) at.whole_begin = at.whole_end = 0;  // the last keys of this tile do not exist
    int const first_head = at.head_kv * (p.sizes.heads_q / p.sizes.heads_kv);
    at.first_place = static_cast<int>(workspace_tile(p, at.batch, first_head, at.tile_begin));
}

}  // namespace fa3
