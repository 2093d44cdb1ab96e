#include "attention/check.h"

#include <math.h>

#include <initializer_list>

#include "params/tensor_map.h"

namespace fa3 {
namespace {

fa3_status check_size(const fa3_tensor& tensor, Storage storage, const char* argument, Dimension dimension,
                      int64_t wanted, const char* source, Error error) {
    if (tensor.shape[dimension] == wanted) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s has %s %lld; it should be %lld, as in %s", argument,
                      dimension_name(storage, dimension), shown(tensor.shape[dimension]), shown(wanted),
                      source);
}

fa3_status check_packed(const fa3_tensor& tensor, const char* argument, const char* reason, Error error) {
    if (tensor.shape[kBatch] == 1) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s has batch %lld; with %s it should be 1", argument,
                      shown(tensor.shape[kBatch]), reason);
}

// One batch entry for each sequence, or one for all packed sequences, or any number of pages.
fa3_status check_batches(const Inputs& inputs, const Problem& problem, Error error) {
    const bool packed_q = problem.storage_q == Storage::kPacked;
    if (packed_q) {
        if (fa3_status status = check_packed(inputs.q, "q", "cu_seqlens_q", error); status != FA3_OK)
            return status;
    } else if (inputs.q.shape[kBatch] != problem.batch) {
        return error.fail(FA3_INVALID_ARGUMENT, "batch is %lld; it should be %lld, as in q",
                          shown(problem.batch), shown(inputs.q.shape[kBatch]));
    }
    if (problem.storage_k == Storage::kPages) return FA3_OK;
    if (problem.storage_k == Storage::kPacked) return check_packed(inputs.k, "k", "cu_seqlens_k", error);
    return check_size(inputs.k, problem.storage_k, "k", kBatch, problem.batch,
                      packed_q ? "cu_seqlens_q" : "q", error);
}

fa3_status check_dtypes(const Inputs& inputs, Error error) {
    if (inputs.q.dtype != FA3_FP16 && inputs.q.dtype != FA3_BF16) {
        return error.fail(FA3_INVALID_ARGUMENT, "q.dtype is %d; it should be %d (fp16) or %d (bf16)",
                          inputs.q.dtype, FA3_FP16, FA3_BF16);
    }
    for (const auto& [tensor, argument] : {std::pair{&inputs.k, "k"}, std::pair{&inputs.v, "v"}}) {
        if (tensor->dtype == inputs.q.dtype) continue;
        return error.fail(FA3_INVALID_ARGUMENT, "%s.dtype is %d; it should be %d, as in q", argument,
                          tensor->dtype, inputs.q.dtype);
    }
    return FA3_OK;
}

fa3_status check_scale(const fa3_scale& scale, Error error) {
    if (!isfinite(scale.softmax_scale)) {
        return error.fail(FA3_INVALID_ARGUMENT, "softmax_scale is %f; it should be a finite float32",
                          static_cast<double>(scale.softmax_scale));
    }
    if (!isfinite(scale.softcap) || scale.softcap < 0 ||
        (scale.softcap > 0 && !isfinite(scale.softmax_scale / scale.softcap))) {
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "softcap is %g; it should be 0, or positive and of a size that softmax_scale / softcap "
            "is a finite float32",
            static_cast<double>(scale.softcap));
    }
    return FA3_OK;
}

fa3_status check_mask(const fa3_mask& mask, Error error) {
    if (mask.causal != 0 && mask.causal != 1) {
        return error.fail(FA3_INVALID_ARGUMENT, "causal is %d; it should be 0 or 1", mask.causal);
    }
    return check_not_negative(mask.attention_chunk, "attention_chunk", error);
}

fa3_status check_sequence_numbers(const fa3_sequences& sequences, Error error) {
    fa3_status status = check_not_negative(sequences.batch, "batch", error);
    if (status == FA3_OK) status = check_not_negative(sequences.max_seqlen_q, "max_seqlen_q", error);
    return status == FA3_OK ? check_not_negative(sequences.max_seqlen_k, "max_seqlen_k", error) : status;
}

fa3_status check_pages(const Inputs& inputs, Error error) {
    const fa3_sequences& sequences = inputs.sequences;
    if (sequences.page_table == nullptr) return FA3_OK;
    if (sequences.cu_seqlens_k != nullptr) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "cu_seqlens_k is given; with a page_table it should be null, and seqused_k should "
                          "have the lengths");
    }
    if (sequences.seqused_k == nullptr) {
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "seqused_k is missing; with a page_table it should give the length of every sequence");
    }
    if (sequences.page_table_stride < 0 || sequences.page_table_stride > INT32_MAX) {
        return error.fail(FA3_INVALID_ARGUMENT, "page_table has stride %lld; it should be between 0 and %d",
                          shown(sequences.page_table_stride), INT32_MAX);
    }
    if (inputs.k.shape[kSeqlen] == 0) {
        return error.fail(FA3_INVALID_ARGUMENT, "k has page_size 0; it should be positive");
    }
    return FA3_OK;
}

fa3_status check_lengths(const Problem& problem, Error error) {
    const struct {
        Storage storage;
        const char* argument;
        int64_t seqlen;
    } operands[] = {{problem.storage_q, "q", problem.seqlen_q}, {problem.storage_k, "k", problem.seqlen_k}};
    for (const auto& operand : operands) {
        if (operand.storage == Storage::kDense || operand.seqlen <= kRaggedRows) continue;
        return error.fail(FA3_INVALID_ARGUMENT, "%s has a seqlen of up to %lld; it should be at most %d",
                          operand.argument, shown(operand.seqlen), kRaggedRows);
    }
    return FA3_OK;
}

uintptr_t number_of(const void* address) { return reinterpret_cast<uintptr_t>(address); }

}  // namespace

fa3_status check_inputs(const Inputs& inputs, const Problem& problem, Error error) {
    const Storage of_q = problem.storage_q;
    const Storage of_k = problem.storage_k;
    fa3_status status = check_dtypes(inputs, error);
    if (status == FA3_OK) status = check_mask(inputs.mask, error);
    if (status == FA3_OK) status = check_scale(inputs.scale, error);
    if (status == FA3_OK) status = check_sequence_numbers(inputs.sequences, error);
    if (status == FA3_OK) status = check_extents(inputs.q, of_q, "q", error);
    if (status == FA3_OK) status = check_extents(inputs.k, of_k, "k", error);
    if (status == FA3_OK) status = check_extents(inputs.v, of_k, "v", error);
    if (status == FA3_OK) status = check_pages(inputs, error);
    if (status == FA3_OK) status = check_batches(inputs, problem, error);
    if (status == FA3_OK) status = check_size(inputs.k, of_k, "k", kHeadDim, problem.head_dim, "q", error);
    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (status == FA3_OK)
            status = check_size(inputs.v, of_k, "v", dimension, inputs.k.shape[dimension], "k", error);
    }
    if (status == FA3_OK && !problem.is_dense()) status = check_lengths(problem, error);
    if (status != FA3_OK) return status;

    if (problem.heads_kv == 0 ? problem.heads_q != 0 : problem.heads_q % problem.heads_kv != 0) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "q has %lld heads and k has %lld; q's should be a multiple of k's",
                          shown(problem.heads_q), shown(problem.heads_kv));
    }
    return FA3_OK;
}

fa3_status check_output_shape(const fa3_tensor& out, const Inputs& inputs, const Problem& problem,
                              Error error) {
    const Storage storage = problem.storage_q;
    if (out.dtype != inputs.q.dtype) {
        return error.fail(FA3_INVALID_ARGUMENT, "out.dtype is %d; it should be %d, as in q", out.dtype,
                          inputs.q.dtype);
    }
    fa3_status status = check_extents(out, storage, "out", error);
    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (status == FA3_OK)
            status = check_size(out, storage, "out", dimension, inputs.q.shape[dimension], "q", error);
    }
    return status == FA3_OK ? check_size(out, storage, "out", kHeadDim, problem.head_dim_v, "v", error)
                            : status;
}

fa3_status check_output(const fa3_tensor& out, const Inputs& inputs, const Problem& problem, Error error) {
    fa3_status status = check_output_shape(out, inputs, problem, error);
    if (status == FA3_OK) status = check_layout(out, problem.storage_q, "out", error);
    if (status == FA3_OK) status = check_whole_rows(out, problem.storage_q, "out", error);
    if (status != FA3_OK || is_empty(out)) return status;
    return check_room(out, problem.storage_q, "out", error);
}

fa3_status check_layouts(const Inputs& inputs, const Problem& problem, Error error) {
    fa3_status status = check_layout(inputs.q, problem.storage_q, "q", error);
    if (status == FA3_OK) status = check_whole_rows(inputs.q, problem.storage_q, "q", error);
    if (status == FA3_OK) status = check_layout(inputs.k, problem.storage_k, "k", error);
    return status == FA3_OK ? check_layout(inputs.v, problem.storage_k, "v", error) : status;
}

fa3_status check_same_slots(const fa3_tensor& tensor, const char* argument, const fa3_tensor& other,
                            const char* other_argument, Storage storage, Error error) {
    const int64_t rows = rows_per_slot(tensor, storage);
    const int64_t other_rows = rows_per_slot(other, storage);
    if (rows == other_rows) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT,
                      "%s has a %s stride of %lld times its %s stride; it should be %lld times, as in %s",
                      argument, dimension_name(storage, kBatch), shown(rows),
                      dimension_name(storage, kSeqlen), shown(other_rows), other_argument);
}

fa3_status check_sequence_arrays(const fa3_sequences& sequences, Error error) {
    const struct {
        const char* argument;
        const void* address;
    } arrays[] = {
        {"cu_seqlens_q", sequences.cu_seqlens_q}, {"cu_seqlens_k", sequences.cu_seqlens_k},
        {"seqused_q", sequences.seqused_q},       {"seqused_k", sequences.seqused_k},
        {"page_table", sequences.page_table},
    };
    for (const auto& array : arrays) {
        if (fa3_status status = check_optional_address(array.address, array.argument, 4, error);
            status != FA3_OK)
            return status;
    }
    return FA3_OK;
}

fa3_status check_address(const void* address, const char* argument, uintptr_t alignment, Error error) {
    if (address != nullptr && number_of(address) % alignment == 0) return FA3_OK;
    if (address == nullptr) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s is null; it should be a %zu-byte aligned device address",
                          argument, static_cast<size_t>(alignment));
    }
    return error.fail(FA3_INVALID_ARGUMENT, "%s is %p; it should be a %zu-byte aligned device address",
                      argument, address, static_cast<size_t>(alignment));
}

fa3_status check_optional_address(const void* address, const char* argument, uintptr_t alignment,
                                  Error error) {
    return address == nullptr ? FA3_OK : check_address(address, argument, alignment, error);
}

fa3_status check_not_negative(int64_t value, const char* argument, Error error) {
    if (value >= 0) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s is %lld; it should not be negative", argument, shown(value));
}

}  // namespace fa3
