// One call of attention forward from torch: its tensors, and the arguments made of them for the runtime.
#pragma once

#include <optional>

#include "flash_attn3.h"
#include "attention/problem.h"
#include "torch/tensor.h"

namespace fa3 {

// Where an operator that returns both leaves them on the stack.
enum Result { kOut, kLse, kResults };

struct FwdCall {
    TorchTensor q;
    TorchTensor k;
    TorchTensor v;
    TorchTensor out;
    TorchTensor lse{"lse"};
    std::optional<double> softmax_scale;  // when none, the usual one of head_dim
    fa3_fwd_args args = {};

    // Owns the tensors, which lie on the stack; `given_out` is 0 where none is given to write to. Masks
    // nothing until told otherwise.
    FwdCall(StableIValue given_q, StableIValue given_k, StableIValue given_v,
            std::optional<double> given_scale, StableIValue given_out = 0);

    // The views of q, k and v, and what follows from them.
    fa3_status read_tensors(Storage storage_q, Storage storage_k, Error error);
    fa3_status read_scalars(StableIValue causal, StableIValue sm_margin, Error error);

    // Copies those of q, k and v whose layout the tensor copy engine or the kernel cannot read.
    fa3_status make_readable(const Problem& problem, Error error);

    fa3_status allocate_out(const Problem& problem, Error error);

    // Whether q's slots are, or in a copy would be, as far apart as out's.
    bool can_share_slots_with_out(const Problem& problem) const;

    // Given the view of out: makes lse and launches.
    fa3_status launch(const Problem& problem, Error error);

    // Hands over out and lse.
    void release(StableIValue* results);
};

// A dense call without options: puts its results at `results`.
fa3_status run_dense(FwdCall& call, StableIValue causal, StableIValue sm_margin, StableIValue* results,
                     Error error);

// The number of sequences that a tensor holds when they are not packed.
inline int32_t batch_of(const fa3_tensor& tensor) {
    return tensor.shape[0] < INT32_MAX ? static_cast<int32_t>(tensor.shape[0]) : INT32_MAX;
}

}  // namespace fa3
