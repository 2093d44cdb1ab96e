// The join of attention over parts of the keys: check, choose a kernel, fill its parameters, launch.
#include "ops/combine.h"

#include <stdint.h>

#include "attention/params.h"
#include "ops/combine_check.h"
#include "pack/choose.h"
#include "pack/entry.h"
#include "pack/launch.h"
#include "params/combine.h"

namespace fa3 {
namespace {

constexpr OpName kOp("combine");

CombineParams combine_params(const fa3_combine_args& args) {
    CombineParams params = {};
    const int64_t seqlen = args.out.shape[kSeqlen];
    params.out_partial = static_cast<const float*>(args.out_partial.data);
    params.out_partial_stride_split = args.out_partial_stride;
    params.out_partial_stride_batch = args.out_partial.stride[kBatch];
    params.out_partial_stride_row = args.out_partial.stride[kSeqlen];
    params.out_partial_stride_head = args.out_partial.stride[kHeads];
    params.lse_partial = args.lse_partial;
    params.lse_partial_stride_split = args.lse_partial_stride[0];
    params.lse_partial_stride_batch = args.lse_partial_stride[1];
    params.lse_partial_stride_head = args.lse_partial_stride[2];
    params.out = operand(args.out, Storage::kDense);
    params.lse = {args.lse, args.out.shape[kHeads] * seqlen, seqlen};
    params.splits = args.splits;
    params.batch = static_cast<int32_t>(args.out.shape[kBatch]);
    params.seqlen = static_cast<int32_t>(seqlen);
    params.heads = static_cast<int32_t>(args.out.shape[kHeads]);
    params.head_dim_v = static_cast<int32_t>(args.out.shape[kHeadDim]);
    params.out_dtype = args.out.dtype;
    return params;
}

// A checked call and its kernel.
struct Plan {
    Target target;
    const Record* kernel = nullptr;  // null: nothing to compute
    uint32_t blocks = 0;
};

fa3_status count_blocks(const fa3_combine_args& args, const Record& kernel, uint32_t* blocks, Error error) {
    const int64_t columns = args.out.shape[kBatch] * args.out.shape[kHeads];
    const int64_t most_rows = int64_t{INT32_MAX} * kernel.tile_m;
    if (columns > most_rows / args.out.shape[kSeqlen]) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "out has %lld x %lld x %lld rows; it should have at most %lld",
                          shown(args.out.shape[kBatch]), shown(args.out.shape[kSeqlen]),
                          shown(args.out.shape[kHeads]), shown(most_rows));
    }
    *blocks = static_cast<uint32_t>((columns * args.out.shape[kSeqlen] + kernel.tile_m - 1) / kernel.tile_m);
    return FA3_OK;
}

fa3_status make_plan(const fa3_combine_args& args, Plan* plan, Error error) {
    fa3_status status = check_combine(args, error);
    if (status != FA3_OK || is_empty(args.out)) return status;
    // One kernel takes every head_dim and mask.
    const Wanted wanted = {kOp, Mask::kFull, args.out_partial.dtype, args.out.dtype, 0, 0};
    const auto accepts = [](const Record&) { return true; };
    const auto precedes = [](const Record&, const Record&) { return false; };
    status = find_target(args.device, &plan->target, error);
    if (status == FA3_OK)
        status = choose_kernel(*plan->target.pack, *plan->target.device, wanted, accepts, precedes,
                               &plan->kernel, error);
    return status == FA3_OK ? count_blocks(args, *plan->kernel, &plan->blocks, error) : status;
}

fa3_status run(const fa3_combine_args& args, Error error) {
    Plan plan;
    fa3_status status = make_plan(args, &plan, error);
    if (status != FA3_OK || plan.kernel == nullptr) return status;
    ContextScope context(*plan.target.driver);
    status = context.enter(*plan.target.device, error);
    if (status != FA3_OK) return status;
    CombineParams params = combine_params(args);
    return launch_all(plan.target, {{plan.kernel, plan.blocks, &params, /*overlaps_previous=*/false}},
                      static_cast<cuda::Stream>(args.stream), error);
}

}  // namespace
}  // namespace fa3

fa3_status fa3_combine(const fa3_combine_args* args, char* error, size_t error_size) {
    return fa3::run_call(args, "fa3_combine_args", fa3::run, {error, error_size});
}

fa3_status fa3_combine_kernel(const fa3_combine_args* args, fa3_kernel_info* info, char* error,
                              size_t error_size) {
    return fa3::name_kernel<fa3::Plan>(args, "fa3_combine_args", fa3::make_plan, info, {error, error_size});
}
