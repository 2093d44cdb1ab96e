#include "attention/params.h"

#include "attention/divisor.h"

namespace fa3 {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;

}  // namespace

SequenceParams sequence_params(const Inputs& inputs) {
    const fa3_sequences& given = inputs.sequences;
    return {given.cu_seqlens_q, given.cu_seqlens_k, given.seqused_q, given.seqused_k, given.page_table};
}

ScaleParams scale_params(const Inputs& inputs) {
    // The quotient is 0 for a tiny softmax_scale, too: such scores do not reach the cap, and 0 means no
    // softcap.
    const fa3_scale& given = inputs.scale;
    const float softcap_scale = given.softcap > 0 ? given.softmax_scale / given.softcap : 0;
    return {(softcap_scale != 0 ? given.softcap : given.softmax_scale) * kLog2E, softcap_scale};
}

SizeParams size_params(const Problem& problem) {
    SizeParams sizes;
    sizes.batch = static_cast<int32_t>(problem.batch);
    sizes.heads_q = static_cast<int32_t>(problem.heads_q);
    sizes.heads_kv = static_cast<int32_t>(problem.heads_kv);
    sizes.head_dim = static_cast<int32_t>(problem.head_dim);
    sizes.head_dim_v = static_cast<int32_t>(problem.head_dim_v);
    sizes.seqlen_q = static_cast<int32_t>(problem.seqlen_q);
    sizes.seqlen_k = static_cast<int32_t>(problem.seqlen_k);
    return sizes;
}

StorageParams storage_params(const Inputs& inputs, const Problem& problem) {
    StorageParams storage = {};
    storage.ragged_q = problem.storage_q != Storage::kDense;
    storage.ragged_k = problem.storage_k != Storage::kDense;
    storage.rows_per_batch_q = static_cast<int32_t>(rows_per_slot(inputs.q, problem.storage_q));
    if (problem.storage_k == Storage::kPages) {
        storage.page_size = static_cast<int32_t>(inputs.k.shape[kSeqlen]);
        storage.page_table_stride = static_cast<int32_t>(inputs.sequences.page_table_stride);
    }
    return storage;
}

MapSteps map_steps(const fa3_tensor& tensor, Storage storage) {
    if (storage == Storage::kDense || is_empty(tensor)) return {};
    const Steps steps = steps_of(tensor);
    const bool packed = storage == Storage::kPacked;
    return {static_cast<int32_t>(steps.row), packed ? 0 : static_cast<int32_t>(steps.slot)};
}

Operand operand(const fa3_tensor& tensor, Storage storage) {
    return {tensor.data, storage == Storage::kPacked ? 0 : tensor.stride[kBatch], tensor.stride[kSeqlen],
            tensor.stride[kHeads]};
}

LseOperand lse_operand(float* data, const Problem& problem) {
    const bool packed = problem.storage_q == Storage::kPacked;
    return {data, packed ? 0 : problem.bound_q * problem.heads_q, problem.bound_q};
}

uint32_t box_rows_of_keys(const Inputs& inputs, const Problem& problem, uint32_t rows) {
    if (problem.storage_k != Storage::kPages) return rows;
    return static_cast<uint32_t>(greatest_common_divisor(inputs.k.shape[kSeqlen], rows));
}

}  // namespace fa3
