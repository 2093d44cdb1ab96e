// Loads by the tensor copy engine (TMA) that complete on an mbarrier.
#pragma once

#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "arch/slab.cuh"
#include "arch/sm90/pipeline.cuh"
#include "parts/ragged.cuh"
#include "parts/work_item.cuh"

namespace fa3 {

using CacheHint = cute::TMA::CacheHintSm90;

// Loads a box of rows, slab by slab, from slab `first_slab` on. `smem`: place of its first row in the first slab;
// `slab_rows`: rows of a whole slab there; `row`: counted from the sequence's first.
template <int Slabs, class Element>
CUTE_DEVICE void load_box(TensorMap const& map, uint64_t* full, CacheHint hint, Element* smem, int slab_rows,
                          MapOrigin at, int row, int head, int first_slab = 0) {
    constexpr int kSlab = kSlabColumns<Element>;
    CUTE_UNROLL
    for (int slab = 0; slab < Slabs; ++slab) {
        cute::SM90_TMA_LOAD_5D::copy(&map, full, static_cast<uint64_t>(hint), smem + slab * slab_rows * kSlab,
                                     (first_slab + slab) * kSlab, head, at.row + row, at.origin, at.batch);
    }
}

// Loads one block of TileN rows of K or V into a pipeline stage, which it waits for; called by one warp. `box_rows`:
// rows of a box of the map. With pages that are shorter than the block, the lanes share its boxes. Page table entries
// that no query of the sequence needs are not read.
template <MaskClass kMask, int Slabs, int TileN, int Stages, class Element>
CUTE_DEVICE void load_key_block(SequenceParams const& sequences, StorageParams const& storage,
                                MaskParams const& mask, int const& box_rows,
                                TensorMap const& map, MapSteps const& steps, Pipeline<Stages>& pipe, Cursor<Stages> at, Element* smem,
                                WorkItem const& item, int block, int head, int first_slab) {
    constexpr uint32_t kBytes = Slabs * TileN * kSlabRowBytes;
    constexpr auto kHint = CacheHint::EVICT_LAST;
    int const lane = cutlass::canonical_lane_idx();
    int const row = block * TileN;
    pipe.wait_empty(at);
    if (lane == 0) pipe.expect(at, kBytes);
    if (sequences.page_table == nullptr) {
        MapOrigin const origin = storage.ragged_k ? slot_origin(steps, item.batch, item.start_k, item.seqlen_k)
                                                  : MapOrigin{0, 0, item.batch};
        if (lane == 0) load_box<Slabs>(map, &pipe.full[at.stage], kHint, smem, TileN, origin, row, head, first_slab);
        return;
    }
    int const first_key = first_seen_key<kMask>(mask, item.seqlen_q, item.seqlen_k);
    __syncwarp();  // no box may land before its bytes are expected
    for (int first = lane * box_rows; first < TileN; first += 32 * box_rows) {
        int const page_index = (row + first) / storage.page_size;
        int const page_row = page_index * storage.page_size;
        bool const used = row + first < item.seqlen_k && row + first + box_rows > first_key;
        int const page =
            used ? sequences.page_table[int64_t(item.batch) * storage.page_table_stride + page_index] : 0;
        int const length = used ? min(storage.page_size, item.seqlen_k - page_row) : 0;
        load_box<Slabs>(map, &pipe.full[at.stage], kHint, smem + first * kSlabColumns<Element>, TileN,
                        slot_origin(steps, page, 0, length), used ? row + first - page_row : 0, head, first_slab);
    }
}

}  // namespace fa3
