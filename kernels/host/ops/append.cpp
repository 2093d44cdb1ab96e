// New rows for a cache of keys and values: check, choose a kernel, fill its parameters, launch.
#include "ops/append.h"

#include <stdint.h>

#include "attention/params.h"
#include "ops/append_check.h"
#include "pack/choose.h"
#include "pack/entry.h"
#include "pack/launch.h"
#include "params/append.h"

namespace fa3 {
namespace {

constexpr OpName kOp("append");

int32_t rows_of(const fa3_tensor& tensor) {
    return static_cast<int32_t>(tensor.shape[kBatch] * tensor.shape[kSeqlen]);
}

RotaryParams rotary_params(const fa3_rotary& rotary) {
    return {rotary.cosines,         rotary.sines,     rotary.stride_cosines, rotary.stride_sines,
            rotary.first_positions, rotary.positions, rotary.columns,        rotary.interleaved,
            rotary.q_advances};
}

AppendParams append_params(const fa3_append_args& args) {
    AppendParams params = {};
    params.k = operand(args.k, storage_of_new(args));
    params.v = operand(args.v, storage_of_new(args));
    params.k_cache = operand(args.k_cache, storage_of_cache(args));
    params.v_cache = operand(args.v_cache, storage_of_cache(args));
    params.cu_seqlens_new = args.cu_seqlens_new;
    params.cache_seqlens = args.cache_seqlens;
    params.cache_batch_idx = args.cache_batch_idx;
    params.page_table = args.page_table;
    params.seqlens = args.seqlens;
    params.rotary = rotary_params(args.rotary);
    params.batch = args.batch;
    params.heads_kv = static_cast<int32_t>(args.k.shape[kHeads]);
    params.head_dim = static_cast<int32_t>(args.k.shape[kHeadDim]);
    params.head_dim_v = static_cast<int32_t>(args.v.shape[kHeadDim]);
    params.seqlen_new = static_cast<int32_t>(args.k.shape[kSeqlen]);
    params.rows_new = rows_of(args.k);
    params.slots = static_cast<int32_t>(args.k_cache.shape[kBatch]);
    params.slot_rows = static_cast<int32_t>(args.k_cache.shape[kSeqlen]);
    params.table_columns = args.page_table_columns;
    params.table_stride = static_cast<int32_t>(args.page_table_stride);
    if (args.q.data == nullptr) return params;
    params.q = operand(args.q, storage_of_q(args));
    params.q_out = operand(args.q_out, storage_of_q(args));
    params.cu_seqlens_q = args.cu_seqlens_q;
    params.heads_q = static_cast<int32_t>(args.q.shape[kHeads]);
    params.seqlen_q = static_cast<int32_t>(args.q.shape[kSeqlen]);
    params.rows_q = rows_of(args.q);
    return params;
}

// A checked call and its kernel.
struct Plan {
    Target target;
    const Record* kernel = nullptr;  // null: there is no sequence
};

fa3_status make_plan(const fa3_append_args& args, Plan* plan, Error error) {
    fa3_status status = check_append(args, error);
    if (status != FA3_OK || args.batch == 0) return status;
    // One kernel takes every head_dim and mask.
    const Wanted wanted = {kOp, Mask::kFull, args.k_cache.dtype, args.k_cache.dtype, 0, 0};
    const auto accepts = [](const Record&) { return true; };
    const auto precedes = [](const Record&, const Record&) { return false; };
    status = find_target(args.device, &plan->target, error);
    return status == FA3_OK ? choose_kernel(*plan->target.pack, *plan->target.device, wanted, accepts, precedes,
                                            &plan->kernel, error)
                            : status;
}

uint32_t blocks_of(int32_t rows, const Record& kernel) {
    const uint32_t tile_m = static_cast<uint32_t>(kernel.tile_m);
    return (static_cast<uint32_t>(rows) + tile_m - 1) / tile_m;
}

fa3_status run(const fa3_append_args& args, Error error) {
    Plan plan;
    fa3_status status = make_plan(args, &plan, error);
    if (status != FA3_OK || plan.kernel == nullptr) return status;
    ContextScope context(*plan.target.driver);
    status = context.enter(*plan.target.device, error);
    if (status != FA3_OK) return status;
    AppendParams params = append_params(args);
    const uint32_t blocks_new = blocks_of(params.rows_new, *plan.kernel);
    params.blocks_new = static_cast<int32_t>(blocks_new == 0 ? 1 : blocks_new);  // the first writes the lengths
    const uint32_t blocks = static_cast<uint32_t>(params.blocks_new) + blocks_of(params.rows_q, *plan.kernel);
    return launch_all(plan.target, {{plan.kernel, blocks, &params, /*overlaps_previous=*/false}},
                      static_cast<cuda::Stream>(args.stream), error);
}

}  // namespace
}  // namespace fa3

fa3_status fa3_append(const fa3_append_args* args, char* error, size_t error_size) {
    return fa3::run_call(args, "fa3_append_args", fa3::run, {error, error_size});
}

fa3_status fa3_append_kernel(const fa3_append_args* args, fa3_kernel_info* info, char* error,
                             size_t error_size) {
    return fa3::name_kernel<fa3::Plan>(args, "fa3_append_args", fa3::make_plan, info, {error, error_size});
}
