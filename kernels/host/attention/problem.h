// The operands and the sizes of an attention call, for any operator.
#pragma once

#include <stdint.h>

#include "attention/layout.h"
#include "flash_attn3.h"

namespace fa3 {

// What every attention call reads.
struct Inputs {
    const fa3_tensor& q;
    const fa3_tensor& k;
    const fa3_tensor& v;
    const fa3_sequences& sequences;
    const fa3_mask& mask;
    const fa3_scale& scale;
};

// The inputs of an operator's arguments, which have these fields.
template <typename Args>
Inputs inputs_of(const Args& args) {
    return {args.q, args.k, args.v, args.sequences, args.mask, args.scale};
}

// The most rows of a (sequence, key head) pair that decode kernels compute.
constexpr int64_t kFewRows = 16;

struct Problem {
    Storage storage_q;  // of q and out
    Storage storage_k;  // of k and v
    int64_t batch;
    int64_t heads_q;
    int64_t heads_kv;
    int64_t head_dim;
    int64_t head_dim_v;
    int64_t seqlen_q;  // of every sequence, or the longest
    int64_t seqlen_k;
    int64_t bound_q;  // upper bounds of the lengths, from the shapes
    int64_t bound_k;

    // Query rows that share the keys of a (sequence, key head) pair.
    int64_t rows_of_key_head() const { return seqlen_q * (heads_q / heads_kv); }

    // Whether a decode kernel may serve the call: with one tile of rows for each key head. Not in ragged
    // batches, where the kernel of a sequence may not depend on the longest one.
    bool has_few_rows() const { return storage_q == Storage::kDense && rows_of_key_head() <= kFewRows; }

    bool is_dense() const { return storage_q == Storage::kDense && storage_k == Storage::kDense; }
};

// Checks nothing: check_inputs does.
Problem problem_of(const Inputs& inputs);

}  // namespace fa3
