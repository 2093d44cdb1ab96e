// Where a tensor lies in device memory.
#pragma once

#include "params/integers.h"

namespace fa3 {

// For kernels that compute addresses. Strides in elements. `data`: first row of sequence 0.
struct Operand {
    void* data;
    fa3_i64 stride_batch;  // 0 for packed sequences (cu_seqlens); of a page with a page table
    fa3_i64 stride_row;
    fa3_i64 stride_head;
};

// Natural logarithm of each row's sum of exponentials: (b, h, sq), or (h, total_q) for a packed q. Rows are contiguous.
struct LseOperand {
    float* data;
    fa3_i64 stride_batch;  // 0 for packed sequences
    fa3_i64 stride_head;
};

}  // namespace fa3
