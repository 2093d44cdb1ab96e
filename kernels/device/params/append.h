// Parameters of the append kernel. Plain data, as `params/fwd.h`.
#pragma once

#include "params/integers.h"
#include "params/operand.h"

namespace fa3 {

// Row p of the tables has the cosines and sines of position p, one of each pair of columns.
struct RotaryParams {
    void const* cosines;  // (positions, columns / 2), of the dtype of k; null: no rotation
    void const* sines;
    fa3_i64 stride_cosines;  // from one position to the next, in elements
    fa3_i64 stride_sines;
    fa3_i32 const* first_positions;  // (b,) of the first new row; null: cache_seqlens
    fa3_i32 positions;
    fa3_i32 columns;      // first columns of a head that are rotated, even
    fa3_i32 interleaved;  // 1: columns 2i and 2i + 1 are a pair; 0: i and i + columns / 2
    fa3_i32 q_advances;   // 1: row i of q is at the first position + i; 0: every row is at the first
};

// Writes the new rows of k (b, s, h_k, d) and v (b, s, h_k, dv) to the cache (b, rows, h_k, d), or to its pages (pages,
// page_size, h_k, d): row i of a sequence to row cache_seqlens + i. Rotates k, and q (b, s_q, h, d) into q_out. Packed new
// rows and queries are (total, h, d). The last dimension is contiguous; strides in elements, of any alignment.
//
// A thread block takes tile_m rows: the first `blocks_new` of the grid of k and v, the others of q. A row for which the
// cache has no room, or whose page or batch entry does not exist, is not written. A row at a position outside of the
// tables is not rotated.
struct AppendParams {
    Operand k;
    Operand v;
    Operand k_cache;
    Operand v_cache;
    Operand q;
    Operand q_out;
    fa3_i32 const* cu_seqlens_new;  // (b + 1,) null: not packed
    fa3_i32 const* cu_seqlens_q;
    fa3_i32 const* cache_seqlens;    // (b,) rows in use before
    fa3_i32 const* cache_batch_idx;  // (b,) entry of the cache; null: that of the sequence
    fa3_i32 const* page_table;       // (b, table_columns) null: no pages
    fa3_i32* seqlens;                // (b,) rows in use afterwards, 0 to the room of a sequence
    RotaryParams rotary;
    fa3_i32 batch;
    fa3_i32 heads_kv;
    fa3_i32 heads_q;
    fa3_i32 head_dim;
    fa3_i32 head_dim_v;
    fa3_i32 seqlen_new;  // of each sequence; without a meaning if packed
    fa3_i32 seqlen_q;
    fa3_i32 rows_new;  // of all sequences
    fa3_i32 rows_q;
    fa3_i32 slots;  // batch entries or pages of the cache
    fa3_i32 slot_rows;
    fa3_i32 table_columns;
    fa3_i32 table_stride;  // pages from one sequence to the next
    fa3_i32 blocks_new;
};

}  // namespace fa3
