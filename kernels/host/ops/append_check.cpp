#include "ops/append_check.h"

#include <stdint.h>

#include <initializer_list>

#include "attention/check.h"

namespace fa3 {
namespace {

// The kernel counts the rows of a tensor, and the elements of a few rows, in 31 bits.
constexpr int64_t kMaxRows = INT32_MAX - 64;
constexpr int64_t kMaxRowElements = int64_t{1} << 28;

fa3_status check_like(const fa3_tensor& tensor, const char* argument, Storage storage, Dimension dimension,
                      int64_t wanted, const char* source, Error error) {
    if (tensor.shape[dimension] == wanted) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s has %s %lld; it should be %lld, as in %s", argument,
                      dimension_name(storage, dimension), shown(tensor.shape[dimension]), shown(wanted),
                      source);
}

fa3_status check_dtype_like(const fa3_tensor& tensor, const char* argument, int32_t wanted, Error error) {
    if (tensor.dtype == wanted) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s.dtype is %d; it should be %d, as in k_cache", argument,
                      tensor.dtype, wanted);
}

fa3_status check_rows(const fa3_tensor& tensor, const char* argument, Error error) {
    const int64_t batch = tensor.shape[kBatch];
    if (batch != 0 && tensor.shape[kSeqlen] > kMaxRows / batch) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s has %lld x %lld rows; it should have at most %lld", argument,
                          shown(batch), shown(tensor.shape[kSeqlen]), shown(kMaxRows));
    }
    if (tensor.shape[kHeads] > kMaxRowElements / tensor.shape[kHeadDim]) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s has %lld heads of %lld; it should have at most %lld elements a row",
                          argument, shown(tensor.shape[kHeads]), shown(tensor.shape[kHeadDim]),
                          shown(kMaxRowElements));
    }
    return FA3_OK;
}

// One entry for each sequence, or one for all packed sequences.
fa3_status check_batch(const fa3_tensor& tensor, const char* argument, Storage storage, int64_t batch,
                       Error error) {
    const bool packed = storage == Storage::kPacked;
    return check_like(tensor, argument, storage, kBatch, packed ? 1 : batch,
                      packed ? "packed sequences" : "cache_seqlens", error);
}

fa3_status check_cache(const fa3_append_args& args, Error error) {
    const Storage storage = storage_of_cache(args);
    if (args.k_cache.dtype != FA3_FP16 && args.k_cache.dtype != FA3_BF16) {
        return error.fail(FA3_INVALID_ARGUMENT, "k_cache.dtype is %d; it should be %d (fp16) or %d (bf16)",
                          args.k_cache.dtype, FA3_FP16, FA3_BF16);
    }
    fa3_status status = check_dtype_like(args.v_cache, "v_cache", args.k_cache.dtype, error);
    if (status == FA3_OK) status = check_extents(args.k_cache, storage, "k_cache", error);
    if (status == FA3_OK) status = check_extents(args.v_cache, storage, "v_cache", error);
    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (status == FA3_OK)
            status = check_like(args.v_cache, "v_cache", storage, dimension, args.k_cache.shape[dimension],
                                "k_cache", error);
    }
    if (status != FA3_OK) return status;
    if (storage != Storage::kPages) {
        if (args.cache_batch_idx != nullptr) return FA3_OK;
        return check_like(args.k_cache, "k_cache", storage, kBatch, args.batch, "cache_seqlens", error);
    }
    if (args.cache_batch_idx != nullptr) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "cache_batch_idx is given; with a page_table it should be null");
    }
    if (args.k_cache.shape[kSeqlen] == 0) {
        return error.fail(FA3_INVALID_ARGUMENT, "k_cache has page_size 0; it should be positive");
    }
    if (args.page_table_stride < 0 || args.page_table_stride > INT32_MAX) {
        return error.fail(FA3_INVALID_ARGUMENT, "page_table has stride %lld; it should be between 0 and %d",
                          shown(args.page_table_stride), INT32_MAX);
    }
    return check_not_negative(args.page_table_columns, "page_table_columns", error);
}

fa3_status check_new(const fa3_append_args& args, Error error) {
    const Storage storage = storage_of_new(args);
    const struct {
        const char* argument;
        const fa3_tensor& tensor;
        const char* cache_argument;
        const fa3_tensor& cache;
    } operands[] = {{"k", args.k, "k_cache", args.k_cache}, {"v", args.v, "v_cache", args.v_cache}};
    for (const auto& operand : operands) {
        fa3_status status = check_dtype_like(operand.tensor, operand.argument, args.k_cache.dtype, error);
        if (status == FA3_OK) status = check_extents(operand.tensor, storage, operand.argument, error);
        if (status == FA3_OK)
            status = check_batch(operand.tensor, operand.argument, storage, args.batch, error);
        for (Dimension dimension : {kHeads, kHeadDim}) {
            if (status == FA3_OK)
                status = check_like(operand.tensor, operand.argument, storage, dimension,
                                    operand.cache.shape[dimension], operand.cache_argument, error);
        }
        if (status == FA3_OK) status = check_rows(operand.tensor, operand.argument, error);
        if (status != FA3_OK) return status;
    }
    return check_like(args.v, "v", storage, kSeqlen, args.k.shape[kSeqlen], "k", error);
}

// The rows that a sequence can have in the cache, or that all packed sequences can have.
fa3_status check_room_for_new(const fa3_append_args& args, Error error) {
    const int64_t slot_rows = args.k_cache.shape[kSeqlen];
    const int64_t room = args.page_table != nullptr ? args.page_table_columns * slot_rows : slot_rows;
    const bool packed = storage_of_new(args) == Storage::kPacked;
    const int64_t rows = args.k.shape[kSeqlen];
    if (args.batch == 0 || (packed ? (rows + args.batch - 1) / args.batch : rows) <= room) return FA3_OK;
    if (args.page_table != nullptr) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "page_table has %d columns, for %lld rows a sequence; k has %lld rows%s",
                          args.page_table_columns, shown(room), shown(rows),
                          packed ? "" : " for each sequence");
    }
    return error.fail(FA3_INVALID_ARGUMENT, "k has %lld rows%s; k_cache has room for %lld a sequence",
                      shown(rows), packed ? "" : " for each sequence", shown(room));
}

fa3_status check_q(const fa3_append_args& args, Error error) {
    if (args.q.data == nullptr) return FA3_OK;
    const Storage storage = storage_of_q(args);
    if (args.rotary.cosines == nullptr) {
        return error.fail(FA3_INVALID_ARGUMENT, "q is given; without rotary_cos it should be absent");
    }
    fa3_status status = check_dtype_like(args.q, "q", args.k_cache.dtype, error);
    if (status == FA3_OK) status = check_extents(args.q, storage, "q", error);
    if (status == FA3_OK) status = check_batch(args.q, "q", storage, args.batch, error);
    if (status == FA3_OK)
        status = check_like(args.q, "q", storage, kHeadDim, args.k_cache.shape[kHeadDim], "k_cache", error);
    return status == FA3_OK ? check_rows(args.q, "q", error) : status;
}

fa3_status check_rotary(const fa3_append_args& args, Error error) {
    const fa3_rotary& rotary = args.rotary;
    if (rotary.cosines == nullptr) return FA3_OK;
    const int64_t head_dim = args.k_cache.shape[kHeadDim];
    if (rotary.columns < 2 || rotary.columns % 2 != 0 || rotary.columns > head_dim) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "rotary_cos is for a rotary_dim of %d; it should be 2 to %lld, the head_dim",
                          rotary.columns, shown(head_dim - head_dim % 2));
    }
    if ((rotary.interleaved != 0 && rotary.interleaved != 1) ||
        (rotary.q_advances != 0 && rotary.q_advances != 1)) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "rotary has interleaved %d and q_advances %d; each should be 0 or 1",
                          rotary.interleaved, rotary.q_advances);
    }
    fa3_status status = check_not_negative(rotary.positions, "rotary.positions", error);
    if (status == FA3_OK) status = check_not_negative(rotary.stride_cosines, "rotary.stride_cosines", error);
    if (status == FA3_OK) status = check_not_negative(rotary.stride_sines, "rotary.stride_sines", error);
    const bool packed = storage_of_new(args) == Storage::kPacked;
    if (status == FA3_OK && !packed && args.batch != 0 && args.k.shape[kSeqlen] > rotary.positions) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "rotary_cos has %d positions; it should have at least %lld, the rows of k",
                          rotary.positions, shown(args.k.shape[kSeqlen]));
    }
    return status;
}

fa3_status check_memory(const fa3_tensor& tensor, Storage storage, const char* argument, bool written,
                        Error error) {
    if (is_empty(tensor)) return FA3_OK;
    if (tensor.stride[kHeadDim] != 1 && tensor.shape[kHeadDim] != 1) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s has stride %lld in its head_dim dimension; it should be 1",
                          argument, shown(tensor.stride[kHeadDim]));
    }
    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (tensor.shape[dimension] > 1 && tensor.stride[dimension] < 0) {
            return error.fail(FA3_INVALID_ARGUMENT, "%s has stride %lld in its %s dimension; it should not be negative",
                              argument, shown(tensor.stride[dimension]), dimension_name(storage, dimension));
        }
    }
    const fa3_status status = written ? check_room(tensor, storage, argument, error) : FA3_OK;
    return status == FA3_OK ? check_address(tensor.data, argument, 2, error) : status;
}

fa3_status check_q_out(const fa3_append_args& args, Error error) {
    if (args.q.data == nullptr) return FA3_OK;
    const Storage storage = storage_of_q(args);
    fa3_status status = check_dtype_like(args.q_out, "q_out", args.k_cache.dtype, error);
    for (Dimension dimension : {kBatch, kSeqlen, kHeads, kHeadDim}) {
        if (status == FA3_OK)
            status = check_like(args.q_out, "q_out", storage, dimension, args.q.shape[dimension], "q", error);
    }
    if (status == FA3_OK) status = check_memory(args.q, storage, "q", false, error);
    return status == FA3_OK ? check_memory(args.q_out, storage, "q_out", true, error) : status;
}

fa3_status check_arrays(const fa3_append_args& args, Error error) {
    fa3_status status = check_address(args.seqlens, "seqlens", 4, error);
    if (status == FA3_OK) status = check_address(args.cache_seqlens, "cache_seqlens", 4, error);
    const struct {
        const char* argument;
        const void* address;
        uintptr_t alignment;
    } optional[] = {
        {"cache_batch_idx", args.cache_batch_idx, 4},
        {"page_table", args.page_table, 4},
        {"cu_seqlens_new", args.cu_seqlens_new, 4},
        {"cu_seqlens_q", args.cu_seqlens_q, 4},
        {"rotary_seqlens", args.rotary.first_positions, 4},
        {"rotary_cos", args.rotary.cosines, 2},
        {"rotary_sin", args.rotary.sines, 2},
    };
    for (const auto& array : optional) {
        if (status == FA3_OK)
            status = check_optional_address(array.address, array.argument, array.alignment, error);
    }
    if (status == FA3_OK && args.rotary.cosines != nullptr)
        status = check_address(args.rotary.sines, "rotary_sin", 2, error);
    return status;
}

}  // namespace

fa3_status check_append_shapes(const fa3_append_args& args, Error error) {
    fa3_status status = check_not_negative(args.batch, "batch", error);
    if (status == FA3_OK) status = check_cache(args, error);
    if (status == FA3_OK) status = check_new(args, error);
    if (status == FA3_OK) status = check_room_for_new(args, error);
    if (status == FA3_OK) status = check_rotary(args, error);
    return status == FA3_OK ? check_q(args, error) : status;
}

fa3_status check_append(const fa3_append_args& args, Error error) {
    fa3_status status = check_append_shapes(args, error);
    if (status != FA3_OK || args.batch == 0) return status;
    status = check_memory(args.k_cache, storage_of_cache(args), "k_cache", true, error);
    if (status == FA3_OK) status = check_memory(args.v_cache, storage_of_cache(args), "v_cache", true, error);
    if (status == FA3_OK) status = check_memory(args.k, storage_of_new(args), "k", false, error);
    if (status == FA3_OK) status = check_memory(args.v, storage_of_new(args), "v", false, error);
    if (status == FA3_OK) status = check_q_out(args, error);
    return status == FA3_OK ? check_arrays(args, error) : status;
}

}  // namespace fa3
