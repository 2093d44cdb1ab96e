#include "layout.h"

namespace fa3 {
namespace {

constexpr int64_t kStrideLimit = int64_t{1} << 40;  // bytes

}  // namespace

bool is_empty(const fa3_tensor& tensor) {
    return tensor.shape[0] == 0 || tensor.shape[1] == 0 || tensor.shape[2] == 0 || tensor.shape[3] == 0;
}

fa3_status check_layout(const fa3_tensor& tensor, const char* argument, Error error) {
    for (int i = 0; i < kRank; ++i) {
        if (tensor.shape[i] < 0) {
            return error.fail(FA3_INVALID_ARGUMENT, "%s has %s %lld; it should not be negative", argument,
                              kDimensionNames[i], shown(tensor.shape[i]));
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
    for (int i = 0; i < kRank - 1; ++i) {
        const int64_t stride = tensor.stride[i];
        if (tensor.shape[i] == 1) continue;
        if (stride < 0 || stride % (kCopyAlignment / kElementBytes) != 0 ||
            stride >= kStrideLimit / kElementBytes) {
            return error.fail(
                FA3_INVALID_ARGUMENT,
                "%s has stride %lld in its %s dimension; it should be a multiple of %lld elements "
                "(%lld bytes), not negative and below 2^40 bytes",
                argument, shown(stride), kDimensionNames[i], shown(kCopyAlignment / kElementBytes),
                shown(kCopyAlignment));
        }
    }
    if (tensor.stride[3] != 1 && tensor.shape[3] != 1) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "%s has stride %lld in its head_dim dimension; it should be 1", argument,
                          shown(tensor.stride[3]));
    }
    return FA3_OK;
}

}  // namespace fa3
