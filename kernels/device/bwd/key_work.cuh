// Work of the kernels of sm_90a that take tiles of keys from a queue: the tile that all warps of a block work on, and the
// warps that hand it out and load for it.
//
// `C`: kTileM, kTileN, kSlabs, kSlabsV, kStages. `Storage`: the kernel's shared memory, with members
//   k, v, q[kStages], dout[kStages]; lse_log2 and minus_delta [kStages][kTileM];
//   Pipeline<kStages> q_pipe, dout_pipe; Pipeline<1> k_pipe, v_pipe, work_pipe;
//   Work work, at a fixed address, so that no register holds it; Work next, of the warp that finds it.
#pragma once

#include "arch/sm90/pipeline.cuh"
#include "parts/key_tile.cuh"
#include "parts/load_tma.cuh"
#include "parts/sequence_boxes.cuh"
#include "parts/tile_queue.cuh"

namespace fa3 {

// A tile of keys, for all other warps.
struct Work {
    KeyTile tile;
    int steps;            // -1: no tile is left
    int steps_before;     // of this block's tiles before it
    uint32_t phase;       // of the barrier of the tiles
    uint32_t keys_phase;  // of those of k and v
};

// Called by a warp.
template <class Storage>
CUTE_DEVICE void hand_out(Storage& smem) {
    smem.work_pipe.wait_empty({0, smem.next.phase});
    auto const* const from = reinterpret_cast<uint32_t const*>(&smem.next);
    int const lane = cutlass::canonical_lane_idx();
    static_assert(sizeof(Work) <= 32 * sizeof(uint32_t), "a word a lane");
    if (lane < int(sizeof(Work) / sizeof(uint32_t))) reinterpret_cast<uint32_t*>(&smem.work)[lane] = from[lane];
    __syncwarp();
    if (lane == 0) smem.work_pipe.publish({});
}

// Called by a warp.
template <class C, class Storage>
CUTE_DEVICE void load_keys(BwdParams const& p, Storage& smem) {
    KeyTile const& item = smem.next.tile;
    bool const ragged = p.storage.ragged_k;
    bool const loads = cutlass::canonical_lane_idx() == 0;
    Cursor<1> const at{0, smem.next.keys_phase};
    smem.k_pipe.wait_empty(at);
    if (loads) {
        smem.k_pipe.expect(at, C::kSlabs * C::kTileN * kSlabRowBytes);
        load_box<C::kSlabs>(p.k_map, smem.k_pipe.full, CacheHint::EVICT_FIRST, smem.k, C::kTileN,
                            box_origin(p.k_steps, item.batch, item.keys, ragged), item.first_key, item.head_kv);
    }
    smem.v_pipe.wait_empty(at);
    if (loads) {
        smem.v_pipe.expect(at, C::kSlabsV * C::kTileN * kSlabRowBytes);
        load_box<C::kSlabsV>(p.v_map, smem.v_pipe.full, CacheHint::EVICT_FIRST, smem.v, C::kTileN,
                             box_origin(p.v_steps, item.batch, item.keys, ragged), item.first_key, item.head_kv);
        smem.next.keys_phase ^= 1;
    }
    __syncwarp();
}

// The next tile is found while the consumers compute, and handed out when all have left the last one. A block that waits
// for its turn waits for lower tiles alone, and the lowest that is not done has a block that computes it.
template <class C, class Storage>
CUTE_DEVICE void produce_keys(BwdParams const& p, Storage& smem) {
    int const lane = cutlass::canonical_lane_idx();
    int const tiles = p.sizes.batch * p.sizes.heads_kv * p.tiles_n;
    Work& next = smem.next;
    if (lane == 0) next.phase = next.keys_phase = next.steps_before = 0;
    int index = blockIdx.x;
    while (index < tiles) {
        if (lane == 0) {
            find_key_tile<C::kTileM, C::kTileN>(p, index, next.tile);
            next.steps = next.tile.steps(p.sizes.heads_q / p.sizes.heads_kv);
        }
        __syncwarp();
        NextTile following;
        following.request(p.queue);
        if (next.tile.first_key < next.tile.keys.slot) {  // else a tile of a ragged batch, of which `tiles` is a bound
            hand_out(smem);
            if (next.steps > 0) load_keys<C>(p, smem);
            if (lane == 0) {
                next.phase ^= 1;
                next.steps_before += next.steps;
            }
        }
        index = following.index();
    }
    if (lane == 0) next.steps = -1;
    __syncwarp();
    hand_out(smem);
    leave_queue(p.queue);
}

// With the statistics of their rows.
template <class C, class Storage>
CUTE_DEVICE void produce_queries(BwdParams const& p, Storage& smem) {
    constexpr uint32_t kBytesRows = C::kTileM * sizeof(float);
    constexpr uint32_t kBytesQ = C::kSlabs * C::kTileM * kSlabRowBytes + kBytesRows;
    constexpr uint32_t kBytesDout = C::kSlabsV * C::kTileM * kSlabRowBytes + kBytesRows;
    Cursor<1> at_work;
    Cursor<C::kStages> at;
    while (true) {
        smem.work_pipe.wait_full(at_work);
        KeyTile const& item = smem.work.tile;
        int const steps = smem.work.steps;
        if (steps < 0) break;
        CUTE_NO_UNROLL
        for (QueryStep step = item.first_step(p.sizes.heads_q / p.sizes.heads_kv); step.index < steps;
             item.advance(step, p.workspace.tiles)) {
            int const row = step.tile * C::kTileM;
            fa3_i64 const place = fa3_i64(step.place) * C::kTileM;
            smem.q_pipe.wait_empty(at);
            smem.q_pipe.expect(at, kBytesQ);
            load_box<C::kSlabs>(p.q_map, &smem.q_pipe.full[at.stage], CacheHint::EVICT_LAST, smem.q[at.stage], C::kTileM,
                                box_origin(p.q_steps, item.batch, item.queries, p.storage.ragged_q), row, step.head);
            cute::SM90_BULK_COPY_G2S::copy(p.workspace.lse_log2 + place, &smem.q_pipe.full[at.stage],
                                           smem.lse_log2[at.stage], kBytesRows);
            smem.dout_pipe.wait_empty(at);
            smem.dout_pipe.expect(at, kBytesDout);
            load_box<C::kSlabsV>(p.dout_map, &smem.dout_pipe.full[at.stage], CacheHint::EVICT_LAST, smem.dout[at.stage],
                                 C::kTileM, box_origin(p.dout_steps, item.batch, item.queries, p.storage.ragged_q), row,
                                 step.head);
            cute::SM90_BULK_COPY_G2S::copy(p.workspace.minus_delta + place, &smem.dout_pipe.full[at.stage],
                                           smem.minus_delta[at.stage], kBytesRows);
            at.advance();
        }
        smem.work_pipe.release_lane(at_work);
        at_work.advance();
    }
}

}  // namespace fa3
