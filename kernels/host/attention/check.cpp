#include "attention/check.h"

#include <math.h>
#include <stdint.h>

#include <initializer_list>

#include "params/fwd.h"
#include "attention/layout.h"

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

// A tensor has one batch entry for each sequence, or a single one of packed sequences, or any number of
// pages.
fa3_status check_batches(const fa3_fwd_args& args, const Problem& problem, Error error) {
    const bool packed_q = problem.storage_q == Storage::kPacked;
    if (packed_q) {
        if (fa3_status status = check_packed(args.q, "q", "cu_seqlens_q", error); status != FA3_OK)
            return status;
    } else if (args.q.shape[kBatch] != problem.batch) {
        return error.fail(FA3_INVALID_ARGUMENT, "batch is %lld; it should be %lld, as in q",
                          shown(problem.batch), shown(args.q.shape[kBatch]));
    }
    if (problem.storage_k == Storage::kPages) return FA3_OK;
    if (problem.storage_k == Storage::kPacked) return check_packed(args.k, "k", "cu_seqlens_k", error);
    return check_size(args.k, problem.storage_k, "k", kBatch, problem.batch, packed_q ? "cu_seqlens_q" : "q",
                      error);
}

fa3_status check_not_negative(const fa3_fwd_args& args, Error error) {
    const int32_t signs =
        args.sm_margin | args.attention_chunk | args.batch | args.max_seqlen_q | args.max_seqlen_k;
    if (signs >= 0) return FA3_OK;  // the only case that has to be quick
    const struct {
        const char* argument;
        int32_t value;
    } numbers[] = {
        {"sm_margin", args.sm_margin},       {"attention_chunk", args.attention_chunk}, {"batch", args.batch},
        {"max_seqlen_q", args.max_seqlen_q}, {"max_seqlen_k", args.max_seqlen_k},
    };
    for (const auto& number : numbers) {
        if (number.value >= 0) continue;
        error.fail(FA3_INVALID_ARGUMENT, "%s is %d; it should not be negative", number.argument,
                   number.value);
        break;
    }
    return FA3_INVALID_ARGUMENT;
}

fa3_status check_numbers(const fa3_fwd_args& args, Error error) {
    if (args.dtype != FA3_FP16 && args.dtype != FA3_BF16) {
        return error.fail(FA3_INVALID_ARGUMENT, "dtype is %d; it should be %d (fp16) or %d (bf16)",
                          args.dtype, FA3_FP16, FA3_BF16);
    }
    if (args.causal != 0 && args.causal != 1) {
        return error.fail(FA3_INVALID_ARGUMENT, "causal is %d; it should be 0 or 1", args.causal);
    }
    if (!isfinite(args.softmax_scale)) {
        return error.fail(FA3_INVALID_ARGUMENT, "softmax_scale is %f; it should be a finite float32",
                          static_cast<double>(args.softmax_scale));
    }
    if (!isfinite(args.softcap) || args.softcap < 0 ||
        (args.softcap > 0 && !isfinite(args.softmax_scale / args.softcap))) {
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "softcap is %g; it should be 0, or positive and of a size that softmax_scale / softcap "
            "is a finite float32",
            static_cast<double>(args.softcap));
    }
    return check_not_negative(args, error);
}

// The stride of page_table is the only number of it that the kernel is given.
fa3_status check_pages(const fa3_fwd_args& args, Error error) {
    if (args.page_table == nullptr) return FA3_OK;
    if (args.cu_seqlens_k != nullptr) {
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "cu_seqlens_k is given, but with a page_table it should not be: seqused_k has the lengths");
    }
    if (args.seqused_k == nullptr) {
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "seqused_k is missing; with a page_table it should give the length of every sequence");
    }
    if (args.page_table_stride < 0 || args.page_table_stride > INT32_MAX) {
        return error.fail(FA3_INVALID_ARGUMENT, "page_table has stride %lld; it should be between 0 and %d",
                          shown(args.page_table_stride), INT32_MAX);
    }
    if (args.k.shape[kSeqlen] == 0) {
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

uintptr_t number_of(const void* address) { return reinterpret_cast<uintptr_t>(address); }

fa3_status check_addresses(const fa3_fwd_args& args, Error error) {
    if (args.lse == nullptr) {
        return error.fail(FA3_INVALID_ARGUMENT, "lse is null; it should be a 4-byte aligned device address");
    }
    const uintptr_t bits = number_of(args.lse) | number_of(args.sink) | number_of(args.cu_seqlens_q) |
                           number_of(args.cu_seqlens_k) | number_of(args.seqused_q) |
                           number_of(args.seqused_k) | number_of(args.page_table);
    if (bits % 4 == 0) return FA3_OK;  // the only case that has to be quick
    const struct {
        const char* argument;
        const void* address;
    } arrays[] = {
        {"lse", args.lse},
        {"sink", args.sink},
        {"cu_seqlens_q", args.cu_seqlens_q},
        {"cu_seqlens_k", args.cu_seqlens_k},
        {"seqused_q", args.seqused_q},
        {"seqused_k", args.seqused_k},
        {"page_table", args.page_table},
    };
    for (const auto& array : arrays) {
        if (number_of(array.address) % 4 == 0) continue;
        error.fail(FA3_INVALID_ARGUMENT, "%s is %p; it should be a 4-byte aligned device address",
                   array.argument, array.address);
        break;
    }
    return FA3_INVALID_ARGUMENT;
}

}  // namespace

fa3_status check_problem(const fa3_fwd_args& args, const Problem& problem, Error error) {
    const Storage of_q = problem.storage_q;
    const Storage of_k = problem.storage_k;
    fa3_status status = check_numbers(args, error);
    if (status == FA3_OK) status = check_extents(args.q, of_q, "q", error);
    if (status == FA3_OK) status = check_extents(args.k, of_k, "k", error);
    if (status == FA3_OK) status = check_extents(args.v, of_k, "v", error);
    if (status == FA3_OK) status = check_pages(args, error);
    if (status == FA3_OK) status = check_batches(args, problem, error);
    if (status == FA3_OK)
        status = check_size(args.k, of_k, "k", kHeadDim, args.q.shape[kHeadDim], "q", error);
    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (status == FA3_OK)
            status = check_size(args.v, of_k, "v", dimension, args.k.shape[dimension], "k", error);
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

fa3_status check_output_shape(const fa3_fwd_args& args, const Problem& problem, Error error) {
    const Storage storage = problem.storage_q;
    fa3_status status = check_extents(args.out, storage, "out", error);
    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (status == FA3_OK)
            status = check_size(args.out, storage, "out", dimension, args.q.shape[dimension], "q", error);
    }
    if (status != FA3_OK) return status;
    return check_size(args.out, storage, "out", kHeadDim, args.v.shape[kHeadDim], "v", error);
}

fa3_status check_output(const fa3_fwd_args& args, const Problem& problem, Error error) {
    fa3_status status = check_output_shape(args, problem, error);
    if (status == FA3_OK) status = check_layout(args.out, problem.storage_q, "out", error);
    if (status != FA3_OK || is_empty(args.out)) return status;
    return check_room(args.out, problem.storage_q, "out", error);
}

fa3_status check_buffers(const fa3_fwd_args& args, const Problem& problem, Error error) {
    fa3_status status = check_output(args, problem, error);
    if (status == FA3_OK) status = check_layout(args.q, problem.storage_q, "q", error);
    if (status == FA3_OK) status = check_layout(args.k, problem.storage_k, "k", error);
    if (status == FA3_OK) status = check_layout(args.v, problem.storage_k, "v", error);
    if (status != FA3_OK) return status;
    if (!problem.is_dense()) status = check_same_slots(args.v, "v", args.k, "k", problem.storage_k, error);
    if (!problem.is_dense() && status == FA3_OK)
        status = check_same_slots(args.out, "out", args.q, "q", problem.storage_q, error);
    if (status != FA3_OK || is_empty(args.out)) return status;

    return check_addresses(args, error);
}

}  // namespace fa3
