// Consumer warpgroups of fwd_sm90: scores, softmax and output of 64 query rows each.
#pragma once

#include <cutlass/platform/platform.h>

#include "arch/sm80/predicated_store.cuh"
#include "arch/sm90/wgmma.cuh"
#include "fwd/fwd_sm90_storage.cuh"
#include "params/fwd.h"
#include "parts/query_row.cuh"
#include "parts/scale_sign.cuh"
#include "parts/softcap.cuh"
#include "parts/steady_softmax.cuh"
#include "parts/store_tma.cuh"

namespace fa3 {

// Multiplies a warpgroup's 64 rows of Q by the sign of the scale.
template <class C>
CUTE_DEVICE void fold_scale_sign(typename C::Element* q, float scale, int warpgroup) {
    constexpr int kSlab = kSlabColumns<typename C::Element>;
    ScaleSign const sign(scale);
    CUTE_UNROLL
    for (int slab = 0; slab < C::kSlabs; ++slab) {
        auto* pairs = reinterpret_cast<uint32_t*>(q + (slab * C::kTileM + warpgroup * 64) * kSlab);
        for (int i = threadIdx.x % 128; i < 64 * kSlab / 2; i += 128) pairs[i] = sign.apply(pairs[i]);
    }
    cutlass::arch::fence_view_async_shared();
    cutlass::arch::NamedBarrier::sync(128, static_cast<uint32_t>(warpgroup));
}

// Overwrites the first `rows` rows of a block of V with zeros: no query of the sequence sees them, so they may hold
// anything, and 0 * NaN is NaN. Every warpgroup does so before its own product.
template <class C>
CUTE_DEVICE void clear_values(typename C::Element* v, int rows, int warpgroup) {
    constexpr int kSlab = kSlabColumns<typename C::Element>;
    CUTE_UNROLL
    for (int slab = 0; slab < C::kSlabsV; ++slab) {
        auto* const pairs = reinterpret_cast<uint32_t*>(v + slab * C::kTileN * kSlab);
        for (int i = threadIdx.x % 128; i < rows * kSlab / 2; i += 128) pairs[i] = 0;
    }
    cutlass::arch::fence_view_async_shared();
    cutlass::arch::NamedBarrier::sync(128, static_cast<uint32_t>(warpgroup));
}

template <class C>
CUTE_DEVICE void consume(FwdParams const& p, SharedStorage<C>& smem, int warpgroup) {
    using Element = typename C::Element;
    using cutlass::platform::false_type;
    using cutlass::platform::true_type;
    constexpr int kSlab = kSlabColumns<Element>;
    constexpr bool kCausal = C::kMask == MaskClass::kCausal;
    constexpr bool kLocal = C::kMask == MaskClass::kLocal;
    constexpr bool kHalves = kCausal && C::kHalves;
    // fp16 overflows where P is high, so references rise before P is converted. bf16 has the exponent range of fp32:
    // there they rise a step later, while the warpgroup waits for its scores anyway.
    constexpr bool kRaiseAtOnce = cutlass::platform::is_same<Element, Half>::value;
    int const lane = cutlass::canonical_lane_idx();
    int const warp = warpgroup * 4 + threadIdx.x % 128 / 32;
    float const scale_log2 = positive_scale(p.scale.scale_log2);
    // Named barriers: 0 to kConsumers - 1 synchronise one warpgroup each, the next kConsumers pass turns.
    auto wait_turn = [&] {
        if constexpr (C::kTurns) {
            cutlass::arch::NamedBarrier::sync(256, static_cast<uint32_t>(C::kConsumers + warpgroup));
        }
    };
    auto pass_turn = [&] {
        if constexpr (C::kTurns) {
            uint32_t const next = (warpgroup + 1) % C::kConsumers;
            cutlass::arch::NamedBarrier::arrive(256, C::kConsumers + next);
        }
    };
    if (warpgroup == C::kConsumers - 1) pass_turn();  // the first turn is that of warpgroup 0

    Cursor<C::kStagesQ> at_q;
    Cursor<C::kStages> at_k, at_v;
    Cursor<2> at_work;
    // Computes a tile; in the second pass, one whose scores outran the references of the first.
    auto compute_tile = [&](auto is_second_pass) {
        WorkSlot<C::kConsumerWarps>& slot = smem.work_slots[at_work.stage];
        WorkItem const item = slot.item;
        int const row = item.first_row + warp * 16 + lane / 4;  // of this thread; so is row + 8
        int const first_row = item.first_row + warpgroup * 64;  // of the warpgroup
        auto visible_to = [&](int tile_row) {
            return visible_keys<C::kMask>(p.mask, query_row_by_shift(p.tiles, item, tile_row).position, item.seqlen_q,
                                          item.seqlen_k);
        };
        KeyRange const visible[2] = {visible_to(row), visible_to(row + 8)};
        SteadySoftmax softmax(scale_log2);
        float s[C::kTileN / 2];
        uint32_t pr[C::kTileN / 4];
        float o[C::kHeadDimV / 2];

        smem.q_pipe.wait_full(at_q);
        if (p.scale.scale_log2 <= 0.f) fold_scale_sign<C>(smem.q[at_q.stage], p.scale.scale_log2, warpgroup);
        auto issue_qk = [&](auto& scores) {
            constexpr int kKeys = sizeof(scores) / sizeof(float) * 2;
            fence_registers(scores);
            cute::warpgroup_arrive();
            gemm_qk<Element, kKeys, C::kHeadDim, C::kTileM, C::kTileN>(
                make_descriptor(smem.q[at_q.stage] + warpgroup * 64 * kSlab, 0),
                make_descriptor(smem.k[at_k.stage], 0), scores);
            cute::warpgroup_commit_batch();
        };
        auto issue_pv = [&] {
            fence_registers(pr);
            fence_registers(o);
            cute::warpgroup_arrive();
            gemm_pv<Element, C::kTileN, C::kHeadDimV>(
                pr, make_descriptor(smem.v[at_v.stage], C::kTileN * kSlabRowBytes), o);
            cute::warpgroup_commit_batch();
        };
        auto release_k = [&] {
            smem.k_pipe.release(at_k);
            at_k.advance();
        };
        auto release_q = [&] {
            smem.q_pipe.release(at_q);
            at_q.advance();
        };
        auto release_v = [&] {
            smem.v_pipe.release(at_v);
            at_v.advance();
        };
        // Softcap is compiled into the local variants alone: its branch costs the others 2 %.
        auto apply_softcap = [&](auto& scores) {
            if constexpr (kLocal) {
                if (p.scale.softcap_scale != 0.f) cap_scores(scores, p.scale.softcap_scale);
            }
        };
        int block = item.block_end - 1;
        // From this block on, every row of the warpgroup sees the first key of each block.
        int unmasked_begin = item.block_begin;
        if constexpr (kLocal) {
            unmasked_begin = max(unmasked_begin, (visible_to(first_row + 63).begin + C::kTileN - 1) / C::kTileN);
        }
        // Most blocks need one side of the mask only.
        auto mask_after = [&](auto& scores) {
            hide_keys_after(scores, block * C::kTileN + lane % 4 * 2, visible);
        };
        auto mask_before = [&](auto& scores) {
            if constexpr (kLocal) {
                if (block < unmasked_begin) hide_keys_before(scores, block * C::kTileN + lane % 4 * 2, visible);
            }
        };

        // Under a causal mask all rows of this warpgroup may be unable to see the last blocks of the tile.
        [[maybe_unused]] bool half = false;  // the rows see only half of their first block
        if constexpr (kCausal) {
            int const end = visible_to(first_row + 63).end;
            int const own_end = max(item.block_begin + 1, (end + C::kTileN - 1) / C::kTileN);
            CUTE_NO_UNROLL
            for (; block >= own_end; --block) {
                smem.k_pipe.wait_full(at_k);
                release_k();
                wait_turn();
                pass_turn();
                smem.v_pipe.wait_full(at_v);
                release_v();
            }
            half = end <= block * C::kTileN + C::kTileN / 2;
        }

        bool* const overflow = &slot.overflow[warp];
        auto flag_overflow = [&](bool overflowed) { set_shared_if(overflowed, overflow); };
        // `operands`: registers that hold products of the last block.
        auto raise_references = [&](auto&... operands) {
            float factor[2];
            flag_overflow(softmax.raise_references(factor));
            (rescale_rows(operands, factor), ...);
        };
        float factor[2] = {1.f, 1.f};  // of O, pending
        // Adds P v to O. `last`: of the blocks of the tile, the only one that can hold keys that no query sees.
        // `meanwhile` runs under the product.
        auto add_values = [&](bool last, auto meanwhile) {
            smem.v_pipe.wait_full(at_v);
            if constexpr (kLocal) {
                int const unseen = slot.first_key - slot.item.block_begin * C::kTileN;
                if (last && any_lane(unseen > 0)) clear_values<C>(smem.v[at_v.stage], unseen, warpgroup);
            }
            issue_pv();
            meanwhile();
            cute::warpgroup_wait<0>();
            fence_registers(o);
            release_v();
        };
        auto clear_output = [&] {
            CUTE_UNROLL
            for (int i = 0; i < C::kHeadDimV / 2; ++i) o[i] = 0.f;
        };

        auto visit_blocks = [&] {
            // First block: the only one that can reach past the last key.
            auto first_block = [&](auto& scores, auto& operand) {
                smem.k_pipe.wait_full(at_k);
                issue_qk(scores);
                cute::warpgroup_wait<0>();
                fence_registers(scores);
                release_k();
                apply_softcap(scores);
                mask_after(scores);
                mask_before(scores);
                softmax.init_references(scores);
                softmax.exponentiate(scores);
                to_operand<Element>(scores, operand);
            };
            if constexpr (kHalves) {
                if (half) {
                    first_block(reinterpret_cast<float(&)[32]>(s), reinterpret_cast<uint32_t(&)[16]>(pr));
                    CUTE_UNROLL
                    for (int i = 16; i < 32; ++i) pr[i] = 0;
                } else {
                    first_block(s, pr);
                }
            } else {
                first_block(s, pr);
            }
            clear_output();
            --block;

            // Slow path of a step: raises references after the last block. `lacks_reference`: a row has none, which only a
            // recomputed tile repairs.
            auto correct_references = [&](bool lacks_reference) {
                if constexpr (!kRaiseAtOnce) raise_references(o);
                flag_overflow(lacks_reference);
            };

            // A step issues the scores of this block and the output of the previous one together; the products of the other
            // warpgroups run under its softmax. The exponentials come after the wait for the output: before it they compete
            // with this warpgroup's own product, which measured 3 to 7 % slower.
            bool k_ready, v_ready;
            auto poll_pipes = [&] {  // early, so that the conversion of P hides the latency
                k_ready = smem.k_pipe.is_full(at_k);
                v_ready = smem.v_pipe.is_full(at_v);
            };
            poll_pipes();
            auto step = [&](auto after, auto before) {  // which sides of the mask this block needs
                constexpr bool kMasked = after.value || before.value;
                constexpr bool kRawScores = !kMasked && !kLocal;  // neither masked nor capped
                if (!k_ready) smem.k_pipe.wait_full(at_k);
                wait_turn();
                issue_qk(s);
                if (!v_ready) smem.v_pipe.wait_full(at_v);
                issue_pv();
                pass_turn();
                // Masked blocks set missing references. Behind them a row can lack one only if all its scores were -inf.
                bool const lacks_reference = !kMasked && softmax.lacks_reference();
                bool const slow_path = any_lane((!kRaiseAtOnce && softmax.needs_raise()) || lacks_reference);
                if (kRawScores && slow_path) {
                    cute::warpgroup_wait<0>();
                    fence_registers(s);
                    fence_registers(o);
                    correct_references(lacks_reference);
                }
                cute::warpgroup_wait<1>();
                fence_registers(s);
                release_k();
                apply_softcap(s);
                if constexpr (after.value) mask_after(s);
                if constexpr (before.value) mask_before(s);
                if constexpr (kMasked) softmax.init_references(s);
                cute::warpgroup_wait<0>();
                fence_registers(o);
                release_v();
                if (!kRawScores && slow_path) correct_references(lacks_reference);
                softmax.exponentiate(s);
                if constexpr (kRaiseAtOnce) {
                    if (any_lane(softmax.needs_raise())) raise_references(s, o);
                }
                poll_pipes();
                to_operand<Element>(s, pr);
            };
            if constexpr (C::kMask != MaskClass::kFull) {
                // The last block that a row sees counts as masked even if the row sees all of it: it sets the reference.
                int const unmasked_end = max(0, visible_to(first_row).end - 1) / C::kTileN;
                for (; block >= max(item.block_begin, unmasked_end); --block) step(true_type{}, true_type{});
            }
            CUTE_NO_UNROLL
            for (; block >= unmasked_begin; --block) step(false_type{}, false_type{});
            if constexpr (kLocal) {
                for (; block >= item.block_begin; --block) step(false_type{}, true_type{});
            }
            release_q();
            add_values(true, [&] { flag_overflow(softmax.has_large_reference()); });
            // Also after the last block, so that the LSE has the same bits whichever step raises a reference.
            if constexpr (!kRaiseAtOnce) flag_overflow(softmax.raise_references(factor));
        };
        // Second pass over a tile: one block at a time. A row that keeps its references keeps every bit.
        auto revisit_blocks = [&] {
            float* const shifts = smem.shifts + warp * 16 + lane / 4;  // of this thread's rows
            shifts[0] = shifts[8] = 0.f;
            clear_output();
            int const last = block;
            CUTE_NO_UNROLL
            for (; block >= item.block_begin; --block) {
                smem.k_pipe.wait_full(at_k);
                issue_qk(s);
                cute::warpgroup_wait<0>();
                fence_registers(s);
                release_k();
                if (block < last) {
                    wait_turn();
                    pass_turn();
                }
                apply_softcap(s);
                mask_after(s);
                mask_before(s);
                float raised[2] = {1.f, 1.f};
                if (!kRaiseAtOnce && block < last) softmax.raise_references(raised);
                float shift[2] = {shifts[0], shifts[8]};
                float replaced[2];
                softmax.replace_references(s, shift, replaced);
                shifts[0] = shift[0];
                shifts[8] = shift[1];
                softmax.exponentiate(s);
                if constexpr (kRaiseAtOnce) {
                    softmax.raise_references(raised);
                    rescale_rows(s, raised);
                }
                float const rescale[2] = {raised[0] * replaced[0], raised[1] * replaced[1]};
                rescale_rows(o, rescale);
                to_operand<Element>(s, pr);
                add_values(block == item.block_begin, [] {});
            }
            release_q();
            if constexpr (!kRaiseAtOnce) softmax.raise_references(factor);
            float const shift[2] = {shifts[0], shifts[8]};
            softmax.undo_shifts(shift);
        };
        auto store_tile = [&] {
            __syncwarp();
            // An overflowed tile is not stored: nothing would order this store before that of the recomputed tile.
            bool const valid = !*overflow;

            float sinks_log2[2], lse[2];
            CUTE_UNROLL
            for (int i = 0; i < 2; ++i) {
                sinks_log2[i] =
                    p.sink ? p.sink[query_row_by_shift(p.tiles, item, row + 8 * i).head] * kLog2E : -infinity();
            }
            softmax.finish(sinks_log2, factor, o, lse);
            smem.work_pipe.release_lane(at_work);
            at_work.advance();

            int const warp_row = item.first_row + warp * 16;
            QueryRow const first = query_row_by_shift(p.tiles, item, warp_row);
            RowPlace const to{map_origin(p.storage.ragged_q, item.start_q, item.seqlen_q, item.batch), warp_row,
                              first.position, first.head, item.slice * C::kSlabsV * kSlab};
            store_rows<C::kHeadDimV, C::kStagedSlabs, C::kTileM>(p.out_map, smem.o, o, warp, to, valid,
                                                                 [&] { return row_count(p.tiles, item); });
            float* const lse_out =
                p.lse.data + (p.sequences.cu_seqlens_q ? int64_t(item.start_q) : item.batch * p.lse.stride_batch);
            CUTE_UNROLL
            for (int i = 0; i < 2; ++i) {
                QueryRow const at = query_row_by_shift(p.tiles, item, row + 8 * i);
                store_if(lane % 4 == 0 && item.slice == 0 && at.position < item.seqlen_q,
                         lse_out + at.head * p.lse.stride_head + at.position, lse[i]);
            }
        };
        if constexpr (is_second_pass.value) {
            revisit_blocks();
        } else {
            visit_blocks();
        }
        store_tile();
    };
    // Second passes are rare and lie behind the loop of first passes, not in it: up to 1.5 % faster.
    auto next_slot = [&]() -> WorkSlot<C::kConsumerWarps> const& {
        smem.work_pipe.wait_full(at_work);
        return smem.work_slots[at_work.stage];
    };
    while (true) {
        while (true) {
            auto const& slot = next_slot();
            if (slot.item.head < 0 || any_lane(slot.recompute)) break;
            compute_tile(false_type{});
        }
        if (smem.work_slots[at_work.stage].item.head < 0) break;
        compute_tile(true_type{});
    }
    if (lane == 0) cute::tma_store_wait<0>();
}

}  // namespace fa3
