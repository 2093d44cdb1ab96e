#include "torch/call.h"

#include <math.h>

#include "torch/checks.h"

namespace fa3 {
namespace {

// Kernels take one number of rows from slot to slot for two tensors: true when these two agree on it.
bool share_slots(const fa3_tensor& a, const fa3_tensor& b, Storage storage) {
    return rows_per_slot(a, storage) == rows_per_slot(b, storage);
}

fa3_status close_slots(TorchTensor& tensor, Storage storage, fa3_tensor* view, Error error) {
    if (rows_per_slot(*view, storage) == view->shape[1]) return FA3_OK;
    return tensor.make_readable(storage, view, error);
}

fa3_status copy_if_unreadable(TorchTensor& tensor, Storage storage, fa3_tensor* view, Error error) {
    if (check_layout(*view, storage, tensor.argument(), {nullptr, 0}) == FA3_OK) return FA3_OK;
    return tensor.make_readable(storage, view, error);
}

// A head_dim of 0 has none, and is refused under its own name.
double usual_scale(int64_t head_dim) { return head_dim == 0 ? 1 : 1 / sqrt(static_cast<double>(head_dim)); }

}  // namespace

FwdCall::FwdCall(StableIValue given_q, StableIValue given_k, StableIValue given_v,
                 std::optional<double> given_scale, StableIValue given_out)
    : q("q", given_q), k("k", given_k), v("v", given_v), out("out", given_out), softmax_scale(given_scale) {
    args.struct_size = sizeof(args);
    args.window_left = -1;
    args.window_right = -1;
}

fa3_status FwdCall::read_tensors(Storage storage_q, Storage storage_k, Error error) {
    fa3_status status = q.view(storage_q, &args.q, error);
    if (status == FA3_OK) status = k.view(storage_k, &args.k, error);
    if (status == FA3_OK) status = v.view(storage_k, &args.v, error);
    if (status == FA3_OK) status = check_dtypes(q, {&k, &v}, error);
    args.device = q.device_index();
    args.dtype = q.dtype() == aoti_torch_dtype_float16() ? FA3_FP16 : FA3_BF16;
    args.softmax_scale = static_cast<float>(softmax_scale.value_or(usual_scale(args.q.shape[3])));
    return status;
}

fa3_status FwdCall::read_scalars(StableIValue causal, StableIValue sm_margin, Error error) {
    args.causal = as_bool(causal) ? 1 : 0;
    return read_int(sm_margin, "sm_margin", 0, &args.sm_margin, error);
}

fa3_status FwdCall::make_readable(const Problem& problem, Error error) {
    const Storage of_k = problem.storage_k;
    fa3_status status = copy_if_unreadable(q, problem.storage_q, &args.q, error);
    if (status == FA3_OK) status = copy_if_unreadable(k, of_k, &args.k, error);
    if (status == FA3_OK) status = copy_if_unreadable(v, of_k, &args.v, error);
    if (status != FA3_OK || share_slots(args.k, args.v, of_k)) return status;
    status = close_slots(k, of_k, &args.k, error);
    return status == FA3_OK ? close_slots(v, of_k, &args.v, error) : status;
}

fa3_status FwdCall::allocate_out(const Problem& problem, Error error) {
    const int64_t shape[] = {args.q.shape[0], args.q.shape[1], args.q.shape[2], args.v.shape[3]};
    const int64_t rank = rank_of(problem.storage_q);
    const fa3_status status = out.allocate_rows(rank, shape + 4 - rank, kCopyElements, q.dtype(), q, error);
    return status == FA3_OK ? out.view(problem.storage_q, &args.out, error) : status;
}

bool FwdCall::can_share_slots_with_out(const Problem& problem) const {
    return share_slots(args.out, args.q, problem.storage_q) ||
           rows_per_slot(args.out, problem.storage_q) == args.out.shape[1];  // q can be copied to slots like these
}

fa3_status FwdCall::launch(const Problem& problem, Error error) {
    fa3_status status = FA3_OK;
    if (!share_slots(args.out, args.q, problem.storage_q)) {
        status = close_slots(q, problem.storage_q, &args.q, error);
    }
    const int64_t shape[] = {args.q.shape[0], args.q.shape[2], args.q.shape[1]};
    const int64_t rank = rank_of(problem.storage_q) - 1;
    if (status == FA3_OK) {
        status = lse.allocate_rows(rank, shape + 3 - rank, 1, aoti_torch_dtype_float32(), q, error);
    }
    if (status == FA3_OK) status = lse.data(reinterpret_cast<void**>(&args.lse), error);
    if (status == FA3_OK) status = current_stream(args.device, &args.stream, error);
    return status == FA3_OK ? fa3_fwd(&args, error.text, error.size) : status;
}

void FwdCall::release(StableIValue* results) {
    results[kOut] = out.release();
    results[kLse] = lse.release();
}

}  // namespace fa3
