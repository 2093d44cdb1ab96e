// Parameters of the backward kernels. Plain data, as `params/fwd.h`.
#pragma once

#include "params/integers.h"
#include "params/mask.h"
#include "params/operand.h"
#include "params/scale.h"
#include "params/sequences.h"
#include "params/sizes.h"
#include "params/storage.h"
#include "params/tensor_map.h"
#include "params/tile_queue.h"

namespace fa3 {

// Workspace of one call. Query rows are cut into tiles of `tile_m`, sequence by sequence (`parts/query_tiles.cuh`), so
// that no tile spans two sequences; `tiles` of them for each query head, an upper bound where batches are ragged.
struct BwdWorkspace {
    float* dq;             // (heads_q, tiles, tile_m, columns_q) gradient of q, unscaled, in the order of `parts/dq_order.cuh`;
                           // null where a kernel of its own computes dq
    float* lse_log2;       // (heads_q, tiles, tile_m) LSE, base 2; +inf for rows that see no key, and behind the last row;
                           // within a tile in the order of `parts/query_tiles.cuh`, as minus_delta
    float* minus_delta;    // (heads_q, tiles, tile_m) the gradient of the LSE less the sum of out * dout over the columns
    float* sink_partials;  // (heads_q, batch * tiles_m) terms of dsink
    fa3_u32* turns;        // (heads_q, tiles) tile of keys that adds to a tile of dq next; null: they add in any order
    fa3_i32 tiles;
    fa3_i32 tile_m;
    fa3_i32 tile_n;        // keys of a tile
    fa3_i32 columns_q;     // head_dim, as the kernel pads it; 0 without dq
    fa3_i32 lane_floats;   // neighbouring floats of a lane in dq: 1 or 4 (`parts/dq_order.cuh`)
};

// Shapes as in `params/fwd.h`: dout as out, dq as q, dk as k, dv as v, dlse as lse. No pages. With seqused, rows of dq, dk
// and dv behind the used ones become 0, and so do rows of packed tensors behind the last sequence.
struct BwdParams {
    TensorMap q_map;  // of kernels that have tensor maps; boxes of 64 columns by tile_m or tile_n rows
    TensorMap k_map;
    TensorMap v_map;
    TensorMap dout_map;
    Operand q;
    Operand k;
    Operand v;
    Operand out;
    Operand dout;
    Operand dq;
    Operand dk;
    Operand dv;
    LseOperand lse;
    LseOperand dlse;    // gradient of the LSE; data null: none
    float const* sink;  // (h,) as in the forward; null: none
    float* dsink;       // (h,)
    SequenceParams sequences;
    ScaleParams scale;
    MaskParams mask;
    SizeParams sizes;
    StorageParams storage;
    BwdWorkspace workspace;
    float softmax_scale;
    fa3_i32 total_q;   // rows of packed tensors
    fa3_i32 total_k;
    fa3_i32 tiles_m;   // of the longest sequence of queries
    fa3_i32 tiles_n;   // of the longest sequence of keys
    fa3_i32 l2_heads;  // (batch, key head) pairs that are computed together, so that their q, dout and dq share the L2
    MapSteps q_steps;  // of ragged maps
    MapSteps k_steps;
    MapSteps v_steps;
    MapSteps dout_steps;
    TileQueue* queue;     // of persistent kernels
    fa3_i32 tail_blocks;  // of the finishing kernel, for rows behind the last sequence
};

}  // namespace fa3
