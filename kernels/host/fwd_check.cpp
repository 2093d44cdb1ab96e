#include "fwd_check.h"

#include <math.h>
#include <stdint.h>

#include <initializer_list>

#include "layout.h"

namespace fa3 {
namespace {

enum Dimension { kBatch, kSeqlen, kHeads, kHeadDim };

constexpr int64_t kHeadDimStep = 8;  // 16 bytes, the copy engine's unit

fa3_status check_shape(const fa3_tensor& tensor, const char* argument, Error error) {
    for (int i = kBatch; i <= kHeadDim; ++i) {
        if (tensor.shape[i] < 0 || tensor.shape[i] > INT32_MAX) {
            return error.fail(FA3_INVALID_ARGUMENT, "%s has %s %lld; it should be between 0 and %d", argument,
                              kDimensionNames[i], shown(tensor.shape[i]), INT32_MAX);
        }
    }
    const int64_t head_dim = tensor.shape[kHeadDim];
    if (head_dim == 0 || head_dim % kHeadDimStep != 0) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "%s has head_dim %lld; it should be a positive multiple of %lld", argument,
                          shown(head_dim), shown(kHeadDimStep));
    }
    return FA3_OK;
}

fa3_status check_equal(const fa3_tensor& tensor, const char* argument, Dimension dimension,
                       const fa3_tensor& other, const char* other_argument, Error error) {
    if (tensor.shape[dimension] == other.shape[dimension]) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s has %s %lld; it should be %lld, as in %s", argument,
                      kDimensionNames[dimension], shown(tensor.shape[dimension]),
                      shown(other.shape[dimension]), other_argument);
}

fa3_status check_output(const fa3_fwd_args& args, Error error) {
    fa3_status status = check_shape(args.out, "out", error);
    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (status == FA3_OK) status = check_equal(args.out, "out", dimension, args.q, "q", error);
    }
    if (status == FA3_OK) status = check_equal(args.out, "out", kHeadDim, args.v, "v", error);
    return status;
}

}  // namespace

fa3_status check_problem(const fa3_fwd_args& args, Error error) {
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
    if (args.sm_margin < 0) {
        return error.fail(FA3_INVALID_ARGUMENT, "sm_margin is %d; it should not be negative", args.sm_margin);
    }
    fa3_status status = check_shape(args.q, "q", error);
    if (status == FA3_OK) status = check_shape(args.k, "k", error);
    if (status == FA3_OK) status = check_shape(args.v, "v", error);
    if (status == FA3_OK) status = check_equal(args.k, "k", kBatch, args.q, "q", error);
    if (status == FA3_OK) status = check_equal(args.k, "k", kHeadDim, args.q, "q", error);
    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (status == FA3_OK) status = check_equal(args.v, "v", dimension, args.k, "k", error);
    }
    if (status != FA3_OK) return status;

    const int64_t heads_q = args.q.shape[kHeads];
    const int64_t heads_kv = args.k.shape[kHeads];
    if (heads_kv == 0 ? heads_q != 0 : heads_q % heads_kv != 0) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "q has %lld heads and k has %lld; q's should be a multiple of k's", shown(heads_q),
                          shown(heads_kv));
    }
    return FA3_OK;
}

fa3_status check_buffers(const fa3_fwd_args& args, Error error) {
    fa3_status status = check_output(args, error);
    if (status == FA3_OK) status = check_layout(args.q, "q", error);
    if (status == FA3_OK) status = check_layout(args.k, "k", error);
    if (status == FA3_OK) status = check_layout(args.v, "v", error);
    if (status == FA3_OK) status = check_layout(args.out, "out", error);
    if (status != FA3_OK || is_empty(args.out)) return status;

    for (Dimension dimension : {kBatch, kSeqlen, kHeads}) {
        if (args.out.stride[dimension] == 0 && args.out.shape[dimension] > 1) {
            return error.fail(FA3_INVALID_ARGUMENT,
                              "out has stride 0 in its %s dimension; it should have room for every element",
                              kDimensionNames[dimension]);
        }
    }
    if (args.lse == nullptr || reinterpret_cast<uintptr_t>(args.lse) % sizeof(float) != 0) {
        return error.fail(FA3_INVALID_ARGUMENT, "lse is %p; it should be a 4-byte aligned device address",
                          static_cast<void*>(args.lse));
    }
    return FA3_OK;
}

}  // namespace fa3
