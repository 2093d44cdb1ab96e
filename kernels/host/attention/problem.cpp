#include "attention/problem.h"

#include <algorithm>

namespace fa3 {

Problem problem_of(const Inputs& inputs) {
    const fa3_sequences& sequences = inputs.sequences;
    Problem problem;
    problem.storage_q = sequences.cu_seqlens_q != nullptr ? Storage::kPacked
                        : sequences.seqused_q != nullptr  ? Storage::kSlots
                                                          : Storage::kDense;
    problem.storage_k = sequences.page_table != nullptr     ? Storage::kPages
                        : sequences.cu_seqlens_k != nullptr ? Storage::kPacked
                        : sequences.seqused_k != nullptr    ? Storage::kSlots
                                                            : Storage::kDense;
    problem.batch = sequences.batch;
    problem.heads_q = inputs.q.shape[kHeads];
    problem.heads_kv = inputs.k.shape[kHeads];
    problem.head_dim = inputs.q.shape[kHeadDim];
    problem.head_dim_v = inputs.v.shape[kHeadDim];
    problem.bound_q = inputs.q.shape[kSeqlen];
    problem.bound_k = problem.storage_k == Storage::kPages ? sequences.max_seqlen_k : inputs.k.shape[kSeqlen];
    // A packed sequence has no more rows than the tensor. At least 1, so that a longest length of 0 launches:
    // whether it is right is known on the device alone.
    const int64_t longest_q = std::min<int64_t>(sequences.max_seqlen_q, problem.bound_q);
    problem.seqlen_q =
        problem.storage_q == Storage::kPacked ? std::max<int64_t>(longest_q, 1) : problem.bound_q;
    problem.seqlen_k = problem.storage_k == Storage::kPacked ? sequences.max_seqlen_k : problem.bound_k;
    return problem;
}

}  // namespace fa3
