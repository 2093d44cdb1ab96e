// A call of attention forward from torch: its tensors, and the arguments of the runtime made from them.
#pragma once

#include <optional>

#include "attention/problem.h"
#include "ops/fwd.h"
#include "torch/stack.h"
#include "torch/tensor.h"

namespace fa3 {

struct FwdCall {
    TorchTensor q;
    TorchTensor k;
    TorchTensor v;
    TorchTensor out;
    TorchTensor lse{"lse"};
    TorchTensor workspace{"workspace"};
    std::optional<double> softmax_scale;  // none: 1 / sqrt(head_dim)
    fa3_fwd_args args = {};

    // Owns the tensors. `given_out` is 0 when the operator allocates out. The mask is full and without
    // windows.
    FwdCall(StableIValue given_q, StableIValue given_k, StableIValue given_v,
            std::optional<double> given_scale, StableIValue given_out = 0);

    // Fills q, k, v, device and scale of the arguments.
    fa3_status read_tensors(Storage storage_q, Storage storage_k, Error error);
    fa3_status read_scalars(StableIValue causal, StableIValue sm_margin, Error error);

    // Copies those of q, k and v that the kernel cannot read where they lie.
    fa3_status make_readable(const Problem& problem, Error error);

    fa3_status allocate_out(const Problem& problem, Error error);

    // Whether q's slots are as far apart as out's, or would be in a copy of q.
    bool can_share_slots_with_out(const Problem& problem) const;

    // With out in the arguments: allocates lse and launches.
    fa3_status launch(const Problem& problem, Error error);

    // Leaves out and lse on the stack.
    void release(StableIValue* results);

  private:
    fa3_status allocate_workspace(Error error);
};

// A dense call without options: leaves its results at `results`.
fa3_status run_dense(FwdCall& call, StableIValue causal, StableIValue sm_margin, StableIValue* results,
                     Error error);

}  // namespace fa3
