// Sizes of a call, as given; a kernel's own head dimensions are the same or larger.
#pragma once

#include "params/integers.h"

namespace fa3 {

struct SizeParams {
    fa3_i32 batch;  // sequences
    fa3_i32 heads_q;
    fa3_i32 heads_kv;
    fa3_i32 head_dim;
    fa3_i32 head_dim_v;
    fa3_i32 seqlen_q;  // of every sequence, or the longest
    fa3_i32 seqlen_k;
};

}  // namespace fa3
