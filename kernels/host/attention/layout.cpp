#include "attention/layout.h"

#include <initializer_list>

#include "attention/divisor.h"
#include "params/tensor_map.h"

namespace fa3 {
namespace {

constexpr int64_t kStrideLimit = int64_t{1} << 40;  // bytes

// Steps of a ragged tensor are counted in 31 bits, up to the one behind the last row.
constexpr int64_t kMaxSteps = INT32_MAX - 1;

fa3_status check_steps(const fa3_tensor& tensor, Storage storage, const char* argument, Error error) {
    const Steps steps = steps_of(tensor);
    const int64_t row = steps.unit * steps.row;
    if (static_cast<fa3_u64>(row * info_of(tensor.dtype).bytes) >= kRaggedWrapBytes) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "%s has stride %lld in its %s dimension; it should be below 2^34 bytes", argument,
                          shown(row), dimension_name(storage, 1));
    }
    const int64_t of_a_slot = tensor.shape[1] * steps.row;  // both below 2^34
    if (of_a_slot > kMaxSteps ||
        (tensor.shape[0] > 1 && steps.slot > (kMaxSteps - of_a_slot) / (tensor.shape[0] - 1))) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "%s spans more than %lld times %lld elements, the common step of its %s and %s "
                          "dimensions",
                          argument, shown(kMaxSteps), shown(steps.unit), dimension_name(storage, 0),
                          dimension_name(storage, 1));
    }
    return FA3_OK;
}

bool has_slots(const fa3_tensor& tensor, Storage storage) {
    return storage != Storage::kDense && storage != Storage::kPacked && !is_empty(tensor);
}

fa3_status check_dtype(const fa3_tensor& tensor, const char* argument, Error error) {
    if (is_dtype(tensor.dtype)) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s.dtype is %d; it should be %d (fp16), %d (bf16) or %d (fp32)",
                      argument, tensor.dtype, FA3_FP16, FA3_BF16, FA3_FP32);
}

}  // namespace

const char* dimension_name(Storage storage, int dimension) {
    constexpr const char* kNames[kRank] = {"batch", "seqlen", "heads", "head_dim"};
    constexpr const char* kPageNames[kRank] = {"pages", "page_size", "heads", "head_dim"};
    return storage == Storage::kPages ? kPageNames[dimension] : kNames[dimension];
}

bool is_empty(const fa3_tensor& tensor) {
    return tensor.shape[0] == 0 || tensor.shape[1] == 0 || tensor.shape[2] == 0 || tensor.shape[3] == 0;
}

fa3_status check_extents(const fa3_tensor& tensor, Storage storage, const char* argument, Error error) {
    if (fa3_status status = check_dtype(tensor, argument, error); status != FA3_OK) return status;
    for (int i = kBatch; i <= kHeadDim; ++i) {
        if (tensor.shape[i] < 0 || tensor.shape[i] > INT32_MAX) {
            return error.fail(FA3_INVALID_ARGUMENT, "%s has %s %lld; it should be between 0 and %d", argument,
                              dimension_name(storage, i), shown(tensor.shape[i]), INT32_MAX);
        }
    }
    if (tensor.shape[kHeadDim] == 0) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s has head_dim 0; it should be positive", argument);
    }
    return FA3_OK;
}

fa3_status check_room(const fa3_tensor& tensor, Storage storage, const char* argument, Error error) {
    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (tensor.stride[dimension] == 0 && tensor.shape[dimension] > 1) {
            return error.fail(FA3_INVALID_ARGUMENT,
                              "%s has stride 0 in its %s dimension; it should have room for every element",
                              argument, dimension_name(storage, dimension));
        }
    }
    return FA3_OK;
}

Steps steps_of(const fa3_tensor& tensor) {
    const int64_t slot = tensor.stride[0];
    const int64_t row = tensor.stride[1];
    const bool one_slot = tensor.shape[0] <= 1;
    // The stride of a dimension of size 1 has no meaning: a row is then a whole slot.
    if (tensor.shape[1] <= 1) return one_slot ? Steps{copy_elements(tensor.dtype), 1, 0} : Steps{slot, 1, 1};
    if (one_slot) return {row, 1, 0};
    const int64_t unit = greatest_common_divisor(row, slot);
    return unit == 0 ? Steps{0, 1, 0} : Steps{unit, row / unit, slot / unit};
}

bool has_whole_rows(const fa3_tensor& tensor, Storage storage) {
    return !has_slots(tensor, storage) || steps_of(tensor).row == 1;
}

int64_t rows_per_slot(const fa3_tensor& tensor, Storage storage) {
    return has_slots(tensor, storage) ? steps_of(tensor).slot : 0;
}

fa3_status check_whole_rows(const fa3_tensor& tensor, Storage storage, const char* argument, Error error) {
    if (has_whole_rows(tensor, storage)) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT,
                      "%s has stride %lld in its %s dimension; it should be a multiple of %lld, the stride "
                      "of its %s dimension",
                      argument, shown(tensor.stride[0]), dimension_name(storage, 0), shown(tensor.stride[1]),
                      dimension_name(storage, 1));
}

fa3_status check_layout(const fa3_tensor& tensor, Storage storage, const char* argument, Error error) {
    if (fa3_status status = check_dtype(tensor, argument, error); status != FA3_OK) return status;
    for (int i = 0; i < kRank; ++i) {
        if (tensor.shape[i] < 0) {
            return error.fail(FA3_INVALID_ARGUMENT, "%s has %s %lld; it should not be negative", argument,
                              dimension_name(storage, i), shown(tensor.shape[i]));
        }
    }
    if (is_empty(tensor)) return FA3_OK;
    if (tensor.data == nullptr) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s.data is null; it should point to device memory",
                          argument);
    }
    if (reinterpret_cast<uintptr_t>(tensor.data) % kCopyAlignment != 0) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s.data is %p; it should be a multiple of %lld bytes",
                          argument, tensor.data, shown(kCopyAlignment));
    }
    const int64_t step = copy_elements(tensor.dtype);
    const int64_t limit = kStrideLimit / info_of(tensor.dtype).bytes;
    for (int i = 0; i < kRank - 1; ++i) {
        const int64_t stride = tensor.stride[i];
        if (tensor.shape[i] == 1) continue;
        if (stride < 0 || stride % step != 0 || stride >= limit) {
            return error.fail(
                FA3_INVALID_ARGUMENT,
                "%s has stride %lld in its %s dimension; it should be a multiple of %lld elements "
                "(%lld bytes), not negative and below 2^40 bytes",
                argument, shown(stride), dimension_name(storage, i), shown(step), shown(kCopyAlignment));
        }
    }
    if (tensor.stride[3] != 1 && tensor.shape[3] != 1) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "%s has stride %lld in its head_dim dimension; it should be 1", argument,
                          shown(tensor.stride[3]));
    }
    return storage == Storage::kDense ? FA3_OK : check_steps(tensor, storage, argument, error);
}

}  // namespace fa3
