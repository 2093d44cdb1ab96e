#include "ops/combine.h"

#include <stdint.h>

#include <initializer_list>

#include "params/combine.h"
#include "ops/combine_check.h"
#include "system/device.h"
#include "pack/launch.h"
#include "attention/layout.h"

namespace fa3 {
namespace {

CombineParams describe(const fa3_combine_args& args) {
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
    params.out = {args.out.data, args.out.stride[kBatch], args.out.stride[kSeqlen], args.out.stride[kHeads]};
    params.lse = args.lse;
    params.lse_stride_batch = args.out.shape[kHeads] * seqlen;
    params.lse_stride_head = seqlen;
    params.splits = args.splits;
    params.batch = static_cast<int32_t>(args.out.shape[kBatch]);
    params.seqlen = static_cast<int32_t>(seqlen);
    params.heads = static_cast<int32_t>(args.out.shape[kHeads]);
    params.head_dim_v = static_cast<int32_t>(args.out.shape[kHeadDim]);
    params.out_dtype = args.out_dtype;
    return params;
}

fa3_status count_blocks(const fa3_combine_args& args, const Kernel& kernel, uint32_t* blocks, Error error) {
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

}  // namespace

fa3_status combine(const fa3_combine_args& args, Error error) {
    if (fa3_status status = check_combine(args, error); status != FA3_OK) return status;
    if (is_empty(args.out)) return FA3_OK;

    const Wanted wanted = {Op::kCombine, Mask::kFull, FA3_FP32, 0, 0, 0};  // one kernel serves all
    Target target;
    uint32_t blocks = 0;
    fa3_status status = find_target(args.device, wanted, &target, error);
    if (status == FA3_OK) status = count_blocks(args, *target.kernel, &blocks, error);
    if (status != FA3_OK) return status;
    ContextScope context(*target.driver);
    status = context.enter(*target.device, error);
    if (status != FA3_OK) return status;
    CombineParams params = describe(args);
    return launch(target, blocks, static_cast<cuda::Stream>(args.stream), &params, error);
}

}  // namespace fa3
