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

struct KeyTile {
    SequenceRows queries;
    SequenceRows keys;
    int batch;
    int head_kv;
    int first_key;
    KeyRange seen;  // keys that any query sees; the rows of k and v outside may hold anything
    int tile_begin;
    int tile_end;

    // Steps over the tiles of queries of all query heads, `group` for a key head.
    CUTE_DEVICE int steps(int group) const { return max(0, tile_end - tile_begin) * group; }
    CUTE_DEVICE QueryTile step(int index, int group) const {
        int const of_head = tile_end - tile_begin;
        int const of_group = index / of_head;
        return {head_kv * group + of_group, tile_begin + index - of_group * of_head};
    }
    // Whether some query of the tile from `first_query` on does not see all keys of this tile.
    template <int TileM, int TileN>
    CUTE_DEVICE bool is_masked(MaskParams const& mask, int first_query) const {
        int const last_key = first_key + TileN - 1;
        return last_key >= keys.length ||
               queries_that_see(mask, last_key, queries.length, keys.length).begin > first_query ||
               queries_that_see(mask, first_key, queries.length, keys.length).end < min(first_query + TileM, queries.length);
    }
    // Of a key of this tile, which may lie behind the last one.
    CUTE_DEVICE QueryRange queries_of_key(MaskParams const& mask, int key) const {
        QueryRange range = queries_that_see(mask, key, queries.length, keys.length);
        if (key >= keys.length) range.end = 0;
        return range;
    }
};

// Sections of `l2_heads` (batch, key head) pairs; within a section the first tiles of all pairs come first, which are the
// longest under a causal mask. A tile of keys never comes before a lower one of its head (`parts/turns.cuh`).
template <int TileM, int TileN>
CUTE_DEVICE KeyTile find_key_tile(BwdParams const& p, int index) {
    int const per_section = p.l2_heads * p.tiles_n;
    int const section = index / per_section;
    int const within = index - section * per_section;
    int const pairs = min(p.l2_heads, p.sizes.batch * p.sizes.heads_kv - section * p.l2_heads);
    int const tile = within / pairs;
    int const pair = section * p.l2_heads + within - tile * pairs;
    KeyTile at;
    at.batch = pair / p.sizes.heads_kv;
    at.head_kv = pair - at.batch * p.sizes.heads_kv;
    at.queries = queries_of(p, at.batch);
    at.keys = keys_of(p, at.batch);
    at.first_key = tile * TileN;
    int const last_key = min(at.first_key + TileN, at.keys.length) - 1;
    at.seen = {visible_keys<MaskClass::kLocal>(p.mask, 0, at.queries.length, at.keys.length).begin,
               visible_keys<MaskClass::kLocal>(p.mask, at.queries.length - 1, at.queries.length, at.keys.length).end};
    at.tile_begin = at.tile_end = 0;
    if (last_key < at.first_key) return at;
    int const begin = queries_that_see(p.mask, at.first_key, at.queries.length, at.keys.length).begin;
    int const end = queries_that_see(p.mask, last_key, at.queries.length, at.keys.length).end;
    at.tile_begin = begin / TileM;
    at.tile_end = (max(end, 0) + TileM - 1) / TileM;
    return at;
}

}  // namespace fa3
