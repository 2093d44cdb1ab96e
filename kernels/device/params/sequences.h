// Arrays in device memory with the place and the length of each sequence.
#pragma once

#include "params/integers.h"

namespace fa3 {

struct SequenceParams {
    fa3_i32 const* cu_seqlens_q;  // (b + 1,) first rows of packed sequences, and the end; null: not packed
    fa3_i32 const* cu_seqlens_k;
    fa3_i32 const* seqused_q;  // (b,) rows in use; null: all
    fa3_i32 const* seqused_k;
    fa3_i32 const* page_table;  // (b, page_table_stride) null: no pages
};

}  // namespace fa3
