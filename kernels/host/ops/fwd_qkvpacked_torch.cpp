// The operator fwd_qkvpacked: q, k and v in one tensor. Three views made by torch's dispatcher cost more than
// the rest of a call.
#include "ops/fwd_torch.h"
#include "torch/registry.h"
#include "torch/stack.h"

namespace fa3 {
namespace {

enum Slot { kQkv, kSoftmaxScale, kCausal, kHeadsQ };
constexpr int64_t kParts = 3;

// Views of q, k and v.
struct Parts {
    int64_t heads[kParts];
    int64_t offset[kParts];  // elements
    int64_t batch, seqlen, head_dim;
    int64_t strides[4];
};

fa3_status find_stacked(const TorchTensor& qkv, Parts* parts, Error error) {
    int64_t* sizes = nullptr;
    int64_t* strides = nullptr;
    const fa3_status status = qkv.shape(5, "(batch, seqlen, 3, heads, head_dim)", &sizes, &strides, error);
    if (status != FA3_OK) return status;
    if (sizes[2] != kParts) {
        return error.fail(FA3_INVALID_ARGUMENT, "qkv has size %lld in dimension 2; it should be 3",
                          shown(sizes[2]));
    }
    *parts = {{sizes[3], sizes[3], sizes[3]},
              {0, strides[2], 2 * strides[2]},
              sizes[0],
              sizes[1],
              sizes[4],
              {strides[0], strides[1], strides[3], strides[4]}};
    return FA3_OK;
}

fa3_status find_joined(const TorchTensor& qkv, int64_t heads_q, Parts* parts, Error error) {
    int64_t* sizes = nullptr;
    int64_t* strides = nullptr;
    const fa3_status status = qkv.shape(4, "(batch, seqlen, heads, head_dim)", &sizes, &strides, error);
    if (status != FA3_OK) return status;
    const int64_t heads_kv = (sizes[2] - heads_q) / 2;
    if (heads_kv < 1 || heads_q + 2 * heads_kv != sizes[2]) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "heads_q is %lld; it should leave an even number of the %lld heads of qkv",
                          shown(heads_q), shown(sizes[2]));
    }
    *parts = {{heads_q, heads_kv, heads_kv},
              {0, heads_q * strides[2], (heads_q + heads_kv) * strides[2]},
              sizes[0],
              sizes[1],
              sizes[3],
              {strides[0], strides[1], strides[2], strides[3]}};
    return FA3_OK;
}

fa3_status run_fwd_qkvpacked(StableIValue* stack, Error error) {
    const TorchTensor qkv("qkv", stack[kQkv]);
    const std::optional<double> softmax_scale = take_double(stack[kSoftmaxScale]);
    int32_t heads_q = 0;
    Parts parts;
    fa3_status status = read_int(stack[kHeadsQ], "heads_q", 0, &heads_q, error);
    if (status == FA3_OK) {
        status = heads_q == 0 ? find_stacked(qkv, &parts, error) : find_joined(qkv, heads_q, &parts, error);
    }
    TorchTensor views[kParts] = {TorchTensor("q"), TorchTensor("k"), TorchTensor("v")};
    for (int64_t i = 0; i < kParts && status == FA3_OK; ++i) {
        const int64_t shape[] = {parts.batch, parts.seqlen, parts.heads[i], parts.head_dim};
        status = views[i].look_into(qkv, 4, shape, parts.strides, parts.offset[i], error);
    }
    if (status != FA3_OK) return status;
    FwdCall call(views[0].release(), views[1].release(), views[2].release(), softmax_scale);
    return run_dense(call, stack[kCausal], /*sm_margin=*/0, stack, error);
}

// (batch, seqlen, 3, heads, head_dim) when heads_q is 0; else (batch, seqlen, heads_q + 2 * heads_kv,
// head_dim).
const Registration registration{operator_record<run_fwd_qkvpacked>(
    "fwd_qkvpacked(Tensor qkv, float? softmax_scale, bool causal, int heads_q) -> (Tensor out, Tensor lse)")};

}  // namespace
}  // namespace fa3
