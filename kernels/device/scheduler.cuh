// Persistent tile scheduling: which query tile a thread block works on next.
//
// Tiles are numbered section by section. A section is a group of `l2_heads` query heads whose K and V fit in the L2
// together; inside it the last query tiles come first, so that under a causal mask the longest work starts earliest.
#pragma once

#include "fwd_params.h"

namespace fa3 {

struct Tile {
    int m;      // query tile
    int head;   // query head
    int batch;
};

CUTE_DEVICE Tile tile_at(FwdParams const& p, int index) {
    int const per_section = p.l2_heads * p.tiles_m;
    int const section = index / per_section;
    int const within = index - section * per_section;
    int const first_head = section * p.l2_heads;
    int const heads = min(p.l2_heads, p.heads_q * p.batch - first_head);
    int const from_end = within / heads;
    int const flat_head = first_head + within - from_end * heads;
    int const batch = flat_head / p.heads_q;
    return {p.tiles_m - 1 - from_end, flat_head - batch * p.heads_q, batch};
}

// The first tile of a block is its own index; the rest come from the queue (dynamic) or by striding.
template <bool Dynamic>
CUTE_DEVICE int next_tile(FwdParams const& p, int current) {
    if constexpr (Dynamic) return static_cast<int>(gridDim.x + atomicAdd(&p.queue->next, 1u));
    return current + static_cast<int>(gridDim.x);
}

// Called once by every block when it found no more tiles; the last one leaves the queue as it was before the launch.
template <bool Dynamic>
CUTE_DEVICE void retire(FwdParams const& p) {
    if constexpr (Dynamic) {
        if (atomicAdd(&p.queue->done, 1u) == gridDim.x - 1) {
            p.queue->next = 0;
            p.queue->done = 0;
        }
    }
}

}  // namespace fa3
