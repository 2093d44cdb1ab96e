// Division of a decode call among thread blocks: from the lengths on the device, which no host reads.
//
// A unit is a tile of query rows of one key head of one sequence. A step is a block of TileN keys of a unit. The steps
// of all units are numbered in the order of sequence, key head, tile; each thread block takes an equal share of the
// numbers, and computes the parts whose first step lies in it.
#pragma once

#include "params/decode.h"
#include "parts/mask.cuh"
#include "parts/warp.cuh"
#include "parts/work_item.cuh"

namespace fa3 {

// Steps of one sequence; the same for all of its units.
struct SequenceSteps {
    int begin;  // first step that any query sees
    int steps;
    int units;
};

// Shorter parts take less time than to join them.
constexpr int kLeastPartSteps = 4;

// A unit with its parts. All parts but the last have `part_steps` steps: they follow from the unit's own steps alone,
// so that no bit of a result depends on other sequences or on the number of thread blocks.
struct DecodeUnit {
    int batch;  // negative: none
    int index;  // in the sequence: key head * tiles_m + tile
    int first;  // number of its first step
    int steps;
    int part_steps;
    int parts;

    CUTE_DEVICE int part_count(int steps_before) const { return (steps_before + part_steps - 1) / part_steps; }
};

// All lanes of a warp call the functions together.
template <int TileM, int TileN>
struct DecodeOrder {
    DecodeParams const& p;

    CUTE_DEVICE SequenceSteps sequence(int batch) const {
        SequenceParams const& at = p.sequences;
        int const seqlen_q = sequence_length(batch, at.cu_seqlens_q, at.seqused_q, p.sizes.seqlen_q);
        int const seqlen_k = sequence_length(batch, at.cu_seqlens_k, at.seqused_k, p.sizes.seqlen_k);
        if (seqlen_q <= 0) return {0, 1, 0};
        int const begin = visible_keys<MaskClass::kLocal>(p.mask, 0, seqlen_q, seqlen_k).begin;
        int const end = visible_keys<MaskClass::kLocal>(p.mask, seqlen_q - 1, seqlen_q, seqlen_k).end;
        int const units = (seqlen_q * p.tiles.pack_gqa + TileM - 1) / TileM * p.sizes.heads_kv;
        // Without visible keys: one step behind the last key, which loads zeros and is masked.
        if (begin >= end) return {(max(seqlen_k, 0) + TileN - 1) / TileN, 1, units};
        return {begin / TileN, (end + TileN - 1) / TileN - begin / TileN, units};
    }

    // Steps of 32 sequences, one a lane, and their prefix sum.
    struct Steps {
        SequenceSteps own;
        int through;
    };
    CUTE_DEVICE Steps steps_from(int first_batch) const {
        int const lane = cutlass::canonical_lane_idx();
        Steps at{{0, 1, 0}, 0};
        if (first_batch + lane < p.sizes.batch) at.own = sequence(first_batch + lane);
        at.through = at.own.steps * at.own.units;
        CUTE_UNROLL
        for (int step = 1; step < 32; step *= 2) {
            int const below = __shfl_up_sync(0xFFFFFFFF, at.through, step);
            if (lane >= step) at.through += below;
        }
        return at;
    }

    CUTE_DEVICE int total() const {
        int all = 0;
        CUTE_NO_UNROLL
        for (int first_batch = 0; first_batch < p.sizes.batch; first_batch += 32) {
            all += __shfl_sync(0xFFFFFFFF, steps_from(first_batch).through, 31);
        }
        return all;
    }

    // The unit of a step.
    CUTE_DEVICE DecodeUnit find(int step) const {
        int before = 0;
        CUTE_NO_UNROLL
        for (int first_batch = 0; first_batch < p.sizes.batch; first_batch += 32) {
            Steps const at = steps_from(first_batch);
            uint32_t const reached = __ballot_sync(0xFFFFFFFF, step < before + at.through);
            if (reached != 0) {
                int const owner = __ffs(reached) - 1;
                int const steps = __shfl_sync(0xFFFFFFFF, at.own.steps, owner);
                int const units = __shfl_sync(0xFFFFFFFF, at.own.units, owner);
                int const first = before + __shfl_sync(0xFFFFFFFF, at.through, owner) - steps * units;
                int const index = (step - first) / steps;
                int const part_steps = max(kLeastPartSteps, (steps + p.partial.parts - 1) / p.partial.parts);
                return {first_batch + owner,
                        index,
                        first + index * steps,
                        steps,
                        part_steps,
                        (steps + part_steps - 1) / part_steps};
            }
            before += __shfl_sync(0xFFFFFFFF, at.through, 31);
        }
        return {-1};
    }
};

// Shares of the thread blocks in all steps: `each`, and one more for the first `rest` of them.
struct Shares {
    int each;
    int rest;

    Shares() = default;
    CUTE_DEVICE explicit Shares(int all)
        : each(all / static_cast<int>(gridDim.x)), rest(all - each * static_cast<int>(gridDim.x)) {}

    CUTE_DEVICE int begin(int block) const { return block * each + min(block, rest); }
    // The thread block whose share a step lies in.
    CUTE_DEVICE int owner(int step) const {
        int const longer = rest * (each + 1);
        return step < longer ? step / (each + 1) : rest + (step - longer) / each;
    }
};

}  // namespace fa3
