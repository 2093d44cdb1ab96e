#include "ops/fwd.h"

#include <stdint.h>

#include "params/fwd.h"
#include "system/device.h"
#include "attention/check.h"
#include "attention/mask.h"
#include "attention/problem.h"
#include "attention/tiles.h"
#include "pack/launch.h"
#include "attention/layout.h"
#include "attention/tensor_map.h"

namespace fa3 {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;

uint32_t greatest_common_divisor(uint32_t a, uint32_t b) {
    while (b != 0) {
        const uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

void fill_sizes(const fa3_fwd_args& args, const Problem& problem, FwdParams& params) {
    params.batch = static_cast<int32_t>(problem.batch);
    params.heads_q = static_cast<int32_t>(problem.heads_q);
    params.heads_kv = static_cast<int32_t>(problem.heads_kv);
    params.head_dim = static_cast<int32_t>(args.q.shape[3]);
    params.head_dim_v = static_cast<int32_t>(args.v.shape[3]);
    params.seqlen_q = static_cast<int32_t>(problem.seqlen_q);
    params.seqlen_k = static_cast<int32_t>(problem.seqlen_k);
}

// A softcap that a tiny softmax_scale cannot reach has nothing to do, and a scale of 0 means "none" to the
// kernel.
void fill_scores(const fa3_fwd_args& args, const FwdMask& mask, FwdParams& params) {
    params.softcap_scale = args.softcap > 0 ? args.softmax_scale / args.softcap : 0;
    params.scale_log2 = (params.softcap_scale != 0 ? args.softcap : args.softmax_scale) * kLog2E;
    params.window_left = mask.window_left;
    params.window_right = mask.window_right;
    params.attention_chunk = mask.attention_chunk;
    params.sink = args.sink;
}

void fill_sequences(const fa3_fwd_args& args, const Problem& problem, const Kernel& kernel,
                    FwdParams& params) {
    params.cu_seqlens_q = args.cu_seqlens_q;
    params.cu_seqlens_k = args.cu_seqlens_k;
    params.seqused_q = args.seqused_q;
    params.seqused_k = args.seqused_k;
    params.page_table = args.page_table;
    params.ragged_q = problem.storage_q != Storage::kDense;
    params.ragged_k = problem.storage_k != Storage::kDense;
    params.rows_per_batch_q = static_cast<int32_t>(rows_per_slot(args.q, problem.storage_q));
    params.rows_per_batch_k = static_cast<int32_t>(rows_per_slot(args.k, problem.storage_k));
    params.box_rows_kv = static_cast<int32_t>(kernel.box_rows_kv);
    if (problem.storage_k == Storage::kPages) {
        params.page_size = static_cast<int32_t>(args.k.shape[1]);
        params.page_table_stride = static_cast<int32_t>(args.page_table_stride);
    }
    if (problem.storage_k == Storage::kPages && kernel.uses_tensor_maps()) {
        params.box_rows_kv = static_cast<int32_t>(
            greatest_common_divisor(static_cast<uint32_t>(args.k.shape[1]), kernel.box_rows_kv));
    }
}

Operand operand(const fa3_tensor& tensor, Storage storage) {
    return {tensor.data, storage == Storage::kPacked ? 0 : tensor.stride[0], tensor.stride[1],
            tensor.stride[2]};
}

void fill_operands(const fa3_fwd_args& args, const Problem& problem, FwdParams& params) {
    params.q = operand(args.q, problem.storage_q);
    params.k = operand(args.k, problem.storage_k);
    params.v = operand(args.v, problem.storage_k);
    params.out = operand(args.out, problem.storage_q);
    params.lse = args.lse;
    params.lse_stride_head = args.q.shape[1];
    params.lse_stride_batch = problem.storage_q == Storage::kPacked ? 0 : args.q.shape[1] * problem.heads_q;
}

// Where heads share a tile, they lie side by side in the boxes of q and out, too.
fa3_status encode_tensors(const cuda::Driver& driver, const fa3_fwd_args& args, const Problem& problem,
                          const Kernel& kernel, FwdParams& params, Error error) {
    const auto encode = [&](const fa3_tensor& tensor, Storage storage, const char* argument, uint32_t heads,
                            uint32_t box_rows, TensorMap& map) {
        return encode_tensor_map(driver, args.device, tensor, storage, argument,
                                 static_cast<fa3_dtype>(args.dtype), {heads, box_rows / heads}, args.out.data,
                                 &map, error);
    };
    const uint32_t box_rows_kv = static_cast<uint32_t>(params.box_rows_kv);
    const uint32_t heads = static_cast<uint32_t>(params.pack_gqa);
    const uint32_t heads_out = heads < kernel.box_rows_out ? heads : kernel.box_rows_out;
    fa3_status status = encode(args.q, problem.storage_q, "q", heads, kernel.box_rows_q, params.q_map);
    if (status == FA3_OK) status = encode(args.k, problem.storage_k, "k", 1, box_rows_kv, params.k_map);
    if (status == FA3_OK) status = encode(args.v, problem.storage_k, "v", 1, box_rows_kv, params.v_map);
    if (status == FA3_OK)
        status = encode(args.out, problem.storage_q, "out", heads_out, kernel.box_rows_out, params.out_map);
    return status;
}

}  // namespace

fa3_status fwd(const fa3_fwd_args& args, Error error) {
    const Problem problem = describe(args);
    if (fa3_status status = check_problem(args, problem, error); status != FA3_OK) return status;
    if (fa3_status status = check_buffers(args, problem, error); status != FA3_OK) return status;
    if (is_empty(args.out) || problem.batch == 0) return FA3_OK;

    const FwdMask mask = resolve_mask(args, problem);
    const Wanted wanted = {
        Op::kFwd,        mask.kind,       static_cast<fa3_dtype>(args.dtype),
        args.q.shape[3], args.v.shape[3], problem.storage_q == Storage::kDense ? problem.seqlen_q : 0};
    Target target;
    if (fa3_status status = find_target(args.device, wanted, &target, error); status != FA3_OK) return status;
    const cuda::Driver& driver = *target.driver;
    const Kernel& kernel = *target.kernel;
    Device& device = *target.device;
    if (args.sm_margin >= device.multiprocessors) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "sm_margin is %d; it should be less than the %d multiprocessors of device %d",
                          args.sm_margin, device.multiprocessors, device.ordinal);
    }

    FwdParams params = {};
    const cuda::Stream stream = static_cast<cuda::Stream>(args.stream);
    ContextScope context(driver);
    fill_scores(args, mask, params);
    fill_sizes(args, problem, params);
    fill_sequences(args, problem, kernel, params);
    fill_operands(args, problem, params);
    fa3_status status = fill_tiles(args, problem, mask, kernel, params, error);
    if (status == FA3_OK) status = context.enter(device, error);
    if (status == FA3_OK && kernel.dynamic) status = device.queues.take(driver, stream, &params.queue, error);
    if (status == FA3_OK && kernel.uses_tensor_maps())
        status = encode_tensors(driver, args, problem, kernel, params, error);
    if (status != FA3_OK) return status;
    const uint32_t blocks = grid_size(device, kernel, args.sm_margin, params.tiles);
    return launch(target, blocks, stream, &params, error);
}

}  // namespace fa3
