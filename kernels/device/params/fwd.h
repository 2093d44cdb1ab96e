// Parameters of the forward kernels. Plain data: NVRTC compiles it for the GPU, the C++17 runtime for the CPU.
#pragma once

#include "params/mask.h"
#include "params/operand.h"
#include "params/scale.h"
#include "params/sequences.h"
#include "params/sizes.h"
#include "params/storage.h"
#include "params/tensor_map.h"
#include "params/tile_queue.h"
#include "params/tiles.h"

namespace fa3 {

// q (b, sq, h, d), k (b, sk, h_k, d), v (b, sk, h_k, dv), out (b, sq, h, dv); packed sequences (total, h, d); k and v in
// pages (pages, page_size, h_k, d). Boxes of the maps of q and out: 64 x pack_gqa x rows / pack_gqa elements, out with no
// more heads than rows.
struct FwdParams {
    TensorMap q_map;
    TensorMap k_map;
    TensorMap v_map;
    TensorMap out_map;
    Operand q;
    Operand k;
    Operand v;
    Operand out;
    LseOperand lse;
    TileQueue* queue;
    float const* sink;  // (h,) logits that join the denominator alone; null: none
    SequenceParams sequences;
    ScaleParams scale;
    MaskParams mask;
    SizeParams sizes;
    StorageParams storage;
    fa3_i32 box_rows_kv;  // of the maps of k and v: the kernel's tile_n, or less so that no box spans two pages
    TileParams tiles;
    MapSteps k_steps;  // of ragged maps
    MapSteps v_steps;
};

}  // namespace fa3
