#include "ops/combine_check.h"

#include <stdint.h>

#include "attention/check.h"
#include "attention/layout.h"
#include "params/combine.h"

namespace fa3 {
namespace {

constexpr int64_t kMaxHeadDim = 512;

fa3_status check_unit_stride(const fa3_tensor& tensor, const char* argument, Error error) {
    if (tensor.stride[kHeadDim] == 1 || tensor.shape[kHeadDim] == 1) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s has stride %lld in its head_dim dimension; it should be 1",
                      argument, shown(tensor.stride[kHeadDim]));
}

}  // namespace

fa3_status check_parts(const fa3_combine_args& args, Error error) {
    if (args.splits < 1 || args.splits > kMaxSplits) {
        return error.fail(FA3_INVALID_ARGUMENT, "out_partial has %d splits; it should have 1 to %d",
                          args.splits, kMaxSplits);
    }
    if (args.out_partial.dtype != FA3_FP32) {
        return error.fail(FA3_INVALID_ARGUMENT, "out_partial.dtype is %d; it should be %d (fp32)",
                          args.out_partial.dtype, FA3_FP32);
    }
    if (!is_dtype(args.out.dtype)) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "out_dtype is %d; it should be %d (fp16), %d (bf16) or %d (fp32)", args.out.dtype,
                          FA3_FP16, FA3_BF16, FA3_FP32);
    }
    fa3_status status = check_extents(args.out_partial, Storage::kDense, "out_partial", error);
    if (status == FA3_OK && args.out_partial.shape[kHeadDim] > kMaxHeadDim) {
        return error.fail(FA3_INVALID_ARGUMENT, "out_partial has head_dim %lld; it should be at most %lld",
                          shown(args.out_partial.shape[kHeadDim]), shown(kMaxHeadDim));
    }
    return status;
}

fa3_status check_combine(const fa3_combine_args& args, Error error) {
    fa3_status status = check_parts(args, error);
    for (int i = kBatch; i <= kHeadDim && status == FA3_OK; ++i) {
        if (args.out.shape[i] == args.out_partial.shape[i]) continue;
        status = error.fail(FA3_INVALID_ARGUMENT, "out has %s %lld; it should be %lld, as in out_partial",
                            dimension_name(Storage::kDense, i), shown(args.out.shape[i]),
                            shown(args.out_partial.shape[i]));
    }
    if (status != FA3_OK || is_empty(args.out)) return status;

    const uintptr_t out_alignment = static_cast<uintptr_t>(info_of(args.out.dtype).bytes);
    status = check_unit_stride(args.out_partial, "out_partial", error);
    if (status == FA3_OK) status = check_unit_stride(args.out, "out", error);
    if (status == FA3_OK) status = check_room(args.out, Storage::kDense, "out", error);
    if (status == FA3_OK) status = check_address(args.out_partial.data, "out_partial.data", 4, error);
    if (status == FA3_OK) status = check_address(args.lse_partial, "lse_partial", 4, error);
    if (status == FA3_OK) status = check_address(args.out.data, "out.data", out_alignment, error);
    return status == FA3_OK ? check_address(args.lse, "lse", 4, error) : status;
}

}  // namespace fa3
