// The operator flash_attn3::fwd.
#include "attention/check.h"
#include "torch/call.h"
#include "torch/checks.h"
#include "torch/operators.h"

namespace fa3 {
namespace {

enum Slot { kQ, kK, kV, kSoftmaxScale, kCausal, kSmMargin };

}  // namespace

fa3_status run_dense(FwdCall& call, StableIValue causal, StableIValue sm_margin, StableIValue* results,
                     Error error) {
    fa3_status status = call.read_tensors(Storage::kDense, Storage::kDense, error);
    if (status == FA3_OK) status = call.read_scalars(causal, sm_margin, error);
    if (status != FA3_OK) return status;

    call.args.batch = batch_of(call.args.q);
    const Problem problem = describe(call.args);
    status = check_problem(call.args, problem, error);
    if (status == FA3_OK) status = check_devices(call.q, {&call.k, &call.v}, error);
    if (status == FA3_OK) status = call.make_readable(problem, error);
    if (status == FA3_OK) status = call.allocate_out(problem, error);
    if (status == FA3_OK) status = call.launch(problem, error);
    if (status == FA3_OK) call.release(results);
    return status;
}

fa3_status run_fwd(StableIValue* stack, Error error) {
    FwdCall call(stack[kQ], stack[kK], stack[kV], take_double(stack[kSoftmaxScale]));
    return run_dense(call, stack[kCausal], stack[kSmMargin], stack, error);
}

}  // namespace fa3
