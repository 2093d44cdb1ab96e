// Parameters of the combine kernel. Plain data, as `params/fwd.h`.
#pragma once

#include "params/integers.h"
#include "params/operand.h"

namespace fa3 {

// The numbers of dtypes, as the kernel pack has them.
constexpr fa3_i32 kFp16 = 0;
constexpr fa3_i32 kBf16 = 1;
constexpr fa3_i32 kFp32 = 2;

// What a thread block keeps of a split's rows: no more splits than these.
constexpr fa3_i32 kMaxSplits = 256;

// Joins what `splits` forward passes over parts of the keys gave: out = sum_i w_i out_i, with w_i = exp(lse_i - lse)
// and lse = log(sum_i exp(lse_i)). out_partial (splits, b, s, h, dv) fp32, lse_partial (splits, b, h, s) fp32 with the
// rows contiguous; out (b, s, h, dv), lse (b, h, s) fp32 with the rows contiguous. The last dimension of the outputs is
// contiguous. Packed sequences (total, h, dv) are a batch of one. Strides in elements, of any sign and alignment: the
// kernel takes four elements at a time where it can.
//
// Rows are numbered (batch, head, position), position fastest; a thread block takes tile_m of them, so the grid is
// ceil(batch * heads * seqlen / tile_m). A split whose LSE is -inf has no weight and its part of out_partial is not
// read; a row with none but such gets out 0 and LSE -inf.
struct CombineParams {
    float const* out_partial;
    fa3_i64 out_partial_stride_split;
    fa3_i64 out_partial_stride_batch;
    fa3_i64 out_partial_stride_row;
    fa3_i64 out_partial_stride_head;
    float const* lse_partial;
    fa3_i64 lse_partial_stride_split;
    fa3_i64 lse_partial_stride_batch;
    fa3_i64 lse_partial_stride_head;
    Operand out;
    LseOperand lse;
    fa3_i32 splits;  // 1 to kMaxSplits
    fa3_i32 batch;
    fa3_i32 seqlen;
    fa3_i32 heads;
    fa3_i32 head_dim_v;
    fa3_i32 out_dtype;  // kFp16, kBf16 or kFp32
};

}  // namespace fa3
