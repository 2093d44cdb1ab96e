// The one structure that the host fills and a forward kernel reads.
// Plain data only: NVRTC compiles it for the GPU, the C++17 runtime for the CPU.
#pragma once

#ifdef __CUDACC_RTC__
using fa3_i32 = int;
using fa3_i64 = long long;
using fa3_u32 = unsigned int;
using fa3_u64 = unsigned long long;
#else
#include <cstdint>
using fa3_i32 = std::int32_t;
using fa3_i64 = std::int64_t;
using fa3_u32 = std::uint32_t;
using fa3_u64 = std::uint64_t;
#endif

namespace fa3 {

// Same size and alignment as the driver's CUtensorMap, which needs no header here.
struct alignas(64) TensorMap {
    fa3_u64 opaque[16];
};

// A persistent kernel's work queue: `next` is the next tile to hand out, `done` counts the
// thread blocks that found it empty. The last of them sets both to 0 again, so a slot is
// zeroed once, when the host allocates it, and never between launches.
struct TileQueue {
    fa3_u32 next;
    fa3_u32 done;
};

// Where a tensor lies, for kernels that compute addresses; strides in elements. `data` is the first row of sequence 0.
struct Operand {
    void* data;
    fa3_i64 stride_batch;  // 0 when sequences are packed (cu_seqlens); of a page when there is a page table
    fa3_i64 stride_row;
    fa3_i64 stride_head;
};

// Attention forward. q (b, sq, h, d), k (b, sk, h_k, d), v (b, sk, h_k, dv), out (b, sq, h, dv), or with sequences
// packed one after another (total, h, d), or k and v in pages (pages, page_size, h_k, d).
//
// Tensor maps see an operand, fastest dimension first, in boxes of 64 x 1 x box_rows x 1 x 1 elements under the
// 128-byte swizzle. A dense operand is (d, h, seqlen, 1, b). A ragged one, whose sequences end anywhere (cu_seqlens,
// seqused or pages), is (d, h, kRaggedRows, origins, wraps): rows and origins both step by one row, and a wrap steps by
// 2^34 bytes less one row, so that kRaggedRows = 2^30 of them go back that many rows, modulo 2^64. Row r of a sequence
// of n rows that starts at row `start` is (kRaggedRows - n + r, start + n, kRaggedRows): out of bounds for r >= n, so
// that TMA reads zeros and drops writes there, while the map's address stays that of the tensor.
//
// Few queries that share their keys may share a tile (grouped-query attention): then its rows are (position, query head
// of the group) pairs, the head fastest, and a box of q is 64 x pack_gqa x box_rows / pack_gqa; of out likewise, but
// no more heads than rows.
constexpr fa3_i32 kRaggedRows = 1 << 30;
constexpr fa3_u64 kRaggedWrapBytes = fa3_u64(1) << 34;

struct FwdParams {
    TensorMap q_map;
    TensorMap k_map;
    TensorMap v_map;
    TensorMap out_map;
    Operand q;
    Operand k;
    Operand v;
    Operand out;
    float* lse;  // natural logarithm, (b, h, sq), or (h, total_q) when q is packed
    fa3_i64 lse_stride_batch;
    fa3_i64 lse_stride_head;
    TileQueue* queue;
    float const* sink;            // (h,) a logit that takes part in the denominator alone; null: none
    fa3_i32 const* cu_seqlens_q;  // (b + 1,) null: not packed
    fa3_i32 const* cu_seqlens_k;
    fa3_i32 const* seqused_q;  // (b,) null: the whole sequence
    fa3_i32 const* seqused_k;
    fa3_i32 const* page_table;  // (b, page_table_stride) null: no pages
    float scale_log2;           // softmax_scale * log2(e); with softcap: softcap * log2(e)
    float softcap_scale;        // softmax_scale / softcap; 0: no softcap
    fa3_i32 window_left;        // keys before and after the diagonal that a query sees; negative: all
    fa3_i32 window_right;
    fa3_i32 attention_chunk;  // queries see only keys of their own chunk of so many positions; 0: no chunks
    fa3_i32 batch;
    fa3_i32 heads_q;
    fa3_i32 heads_kv;
    fa3_i32 head_dim;  // as the caller gave them; the kernel's own are the same or larger
    fa3_i32 head_dim_v;
    fa3_i32 seqlen_q;  // of every sequence, or the longest
    fa3_i32 seqlen_k;
    fa3_i32 ragged_q;          // 1: the q and out maps are ragged
    fa3_i32 ragged_k;          // 1: the k and v maps are ragged
    fa3_i32 rows_per_batch_q;  // ragged, not packed: rows from one sequence to the next
    fa3_i32 rows_per_batch_k;  // the same, or from one page to the next
    fa3_i32 page_size;
    fa3_i32 page_table_stride;
    fa3_i32 box_rows_kv;  // of the k and v maps: the kernel's tile_n, or less so that no box spans two pages
    fa3_i32 pack_gqa;      // query heads that share a tile's rows: 1, or all of a key head
    fa3_i32 pack_shift;    // its logarithm, base 2, where it is a power of two; kernels with tensor maps pack no others
    fa3_i32 value_slices;  // tiles that share a row's columns of v and out, each with the kernel's own number of them
    fa3_i32 tiles_m;       // ceil(seqlen_q * pack_gqa / tile_m)
    fa3_i32 tiles;         // tiles_m * (heads_q / pack_gqa) * value_slices * batch; an upper bound when q is ragged
    fa3_i32 l2_heads;      // of these (head, slice) pairs, how many are handed out together, so that K and V share the L2
};

}  // namespace fa3
