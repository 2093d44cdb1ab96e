// The sizes of an attention forward call, however its sequences are stored.
#pragma once

#include <stdint.h>

#include "flash_attn3.h"
#include "attention/layout.h"

namespace fa3 {

struct Problem {
    Storage storage_q;  // of q and out
    Storage storage_k;  // of k and v
    int64_t batch;
    int64_t heads_q;
    int64_t heads_kv;
    int64_t seqlen_q;  // of every sequence, or the longest
    int64_t seqlen_k;
    int64_t bound_q;  // no sequence is longer, whatever the caller says
    int64_t bound_k;

    bool is_dense() const { return storage_q == Storage::kDense && storage_k == Storage::kDense; }
};

// Says nothing of whether the sizes make sense: check_problem does.
Problem describe(const fa3_fwd_args& args);

}  // namespace fa3
