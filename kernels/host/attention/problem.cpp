#include "attention/problem.h"

namespace fa3 {

Problem describe(const fa3_fwd_args& args) {
    Problem problem;
    problem.storage_q = args.cu_seqlens_q != nullptr ? Storage::kPacked
                        : args.seqused_q != nullptr  ? Storage::kSlots
                                                     : Storage::kDense;
    problem.storage_k = args.page_table != nullptr     ? Storage::kPages
                        : args.cu_seqlens_k != nullptr ? Storage::kPacked
                        : args.seqused_k != nullptr    ? Storage::kSlots
                                                       : Storage::kDense;
    problem.batch = args.batch;
    problem.heads_q = args.q.shape[2];
    problem.heads_kv = args.k.shape[2];
    problem.bound_q = args.q.shape[1];
    problem.bound_k = problem.storage_k == Storage::kPages ? args.max_seqlen_k : args.k.shape[1];
    // Packed sequences are at least one row long here, so that a longest length of 0 launches: only the
    // device knows whether it is true.
    problem.seqlen_q = problem.storage_q != Storage::kPacked ? problem.bound_q
                       : args.max_seqlen_q > 1               ? args.max_seqlen_q
                                                             : 1;
    problem.seqlen_k = problem.storage_k == Storage::kPacked ? args.max_seqlen_k : problem.bound_k;
    return problem;
}

}  // namespace fa3
