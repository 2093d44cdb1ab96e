#include "fwd.h"

#include <stdint.h>

#include "../device/fwd_params.h"
#include "device.h"
#include "fwd_check.h"
#include "fwd_mask.h"
#include "fwd_problem.h"
#include "layout.h"
#include "loader.h"
#include "pack.h"
#include "tensor_map.h"
#include "variant.h"

namespace fa3 {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;

// K and V that the running tiles share should stay in the L2. It has 50 MiB on the largest Hopper parts, but
// q, out and the two halves' copies of what both read take their share.
constexpr int64_t kL2BytesForKv = 32 << 20;

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

uint32_t greatest_common_divisor(uint32_t a, uint32_t b) {
    while (b != 0) {
        const uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// How many query heads are handed out together: those of as many key heads as fit in the L2, at least one.
int32_t heads_sharing_l2(const fa3_fwd_args& args, const Problem& problem) {
    const int64_t all_kv = problem.heads_kv * problem.batch;
    const int64_t bytes_per_head = problem.seqlen_k * (args.k.shape[3] + args.v.shape[3]) * kElementBytes;
    int64_t sharing = bytes_per_head == 0 ? all_kv : kL2BytesForKv / bytes_per_head;
    if (sharing < 1) sharing = 1;
    if (sharing > all_kv) sharing = all_kv;
    return static_cast<int32_t>(sharing * (problem.heads_q / problem.heads_kv));
}

fa3_status fill_sizes(const fa3_fwd_args& args, const Problem& problem, const Kernel& kernel,
                      FwdParams& params, Error error) {
    const int64_t heads = problem.batch * problem.heads_q;
    const int64_t tiles_m = ceil_div(problem.seqlen_q, kernel.tile_m);
    if (heads > INT32_MAX || tiles_m * heads > INT32_MAX) {
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "q has batch %lld, seqlen %lld and %lld heads, which is more than the %d tiles of %u "
            "positions that a launch can number",
            shown(problem.batch), shown(problem.seqlen_q), shown(problem.heads_q), INT32_MAX, kernel.tile_m);
    }
    params.batch = static_cast<int32_t>(problem.batch);
    params.heads_q = static_cast<int32_t>(problem.heads_q);
    params.heads_kv = static_cast<int32_t>(problem.heads_kv);
    params.head_dim = static_cast<int32_t>(args.q.shape[3]);
    params.head_dim_v = static_cast<int32_t>(args.v.shape[3]);
    params.seqlen_q = static_cast<int32_t>(problem.seqlen_q);
    params.seqlen_k = static_cast<int32_t>(problem.seqlen_k);
    params.tiles_m = static_cast<int32_t>(tiles_m);
    params.tiles = static_cast<int32_t>(tiles_m * heads);
    params.l2_heads = heads_sharing_l2(args, problem);
    return FA3_OK;
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

fa3_status encode_tensors(const cuda::Driver& driver, const fa3_fwd_args& args, const Problem& problem,
                          const Kernel& kernel, FwdParams& params, Error error) {
    const auto encode = [&](const fa3_tensor& tensor, Storage storage, const char* argument,
                            uint32_t box_rows, TensorMap& map) {
        return encode_tensor_map(driver, tensor, storage, argument, static_cast<fa3_dtype>(args.dtype),
                                 box_rows, args.out.data, &map, error);
    };
    const uint32_t box_rows_kv = static_cast<uint32_t>(params.box_rows_kv);
    fa3_status status = encode(args.q, problem.storage_q, "q", kernel.box_rows_q, params.q_map);
    if (status == FA3_OK) status = encode(args.k, problem.storage_k, "k", box_rows_kv, params.k_map);
    if (status == FA3_OK) status = encode(args.v, problem.storage_k, "v", box_rows_kv, params.v_map);
    if (status == FA3_OK)
        status = encode(args.out, problem.storage_q, "out", kernel.box_rows_out, params.out_map);
    return status;
}

// A persistent kernel: no more blocks than run at once, in whole clusters, at least one.
uint32_t grid_size(const Device& device, const Kernel& kernel, int32_t sm_margin, int32_t tiles) {
    const int64_t resident = static_cast<int64_t>(device.multiprocessors - sm_margin) * kernel.blocks_per_sm;
    const int64_t blocks = tiles < resident ? tiles : resident;
    const int64_t clusters = blocks / kernel.cluster;
    return static_cast<uint32_t>(clusters < 1 ? 1 : clusters) * kernel.cluster;
}

fa3_status launch(const cuda::Driver& driver, const Kernel& kernel, cuda::Function function, uint32_t grid,
                  cuda::Stream stream, FwdParams& params, Error error) {
    cuda::LaunchAttribute cluster = {};
    cluster.id = cuda::LaunchAttribute::kClusterDimension;
    cluster.cluster = {kernel.cluster, 1, 1};
    cuda::LaunchConfig config = {};
    config.grid_x = grid;
    config.grid_y = config.grid_z = 1;
    config.block_x = kernel.threads;
    config.block_y = config.block_z = 1;
    config.shared_bytes = kernel.smem_bytes;
    config.stream = stream;
    config.attributes = &cluster;
    config.attribute_count = kernel.cluster > 1 ? 1 : 0;
    void* parameters[] = {&params};
    const cuda::Result result = driver.launch(&config, function, parameters, nullptr);
    return result == cuda::kSuccess ? FA3_OK : driver.fail(result, "cuLaunchKernelEx", error);
}

}  // namespace

fa3_status fwd(const fa3_fwd_args& args, Error error) {
    const Problem problem = describe(args);
    if (fa3_status status = check_problem(args, problem, error); status != FA3_OK) return status;
    if (fa3_status status = check_buffers(args, problem, error); status != FA3_OK) return status;
    if (is_empty(args.out) || problem.batch == 0) return FA3_OK;

    const cuda::Driver* driver = nullptr;
    Device* device = nullptr;
    const Pack* pack = nullptr;
    const Kernel* kernel = nullptr;
    fa3_status status = cuda::get_driver(&driver, error);
    if (status == FA3_OK) status = get_device(*driver, args.device, &device, error);
    if (status == FA3_OK) status = get_pack(&pack, error);
    if (status != FA3_OK) return status;

    const FwdMask mask = resolve_mask(args, problem);
    const Wanted wanted = {
        "fwd",           mask.kind,       static_cast<fa3_dtype>(args.dtype),
        args.q.shape[3], args.v.shape[3], problem.storage_q == Storage::kDense ? problem.seqlen_q : 0};
    status = choose_kernel(*pack, *device, wanted, &kernel, error);
    if (status != FA3_OK) return status;
    if (args.sm_margin >= device->multiprocessors) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "sm_margin is %d; it should be less than the %d multiprocessors of device %d",
                          args.sm_margin, device->multiprocessors, device->ordinal);
    }

    FwdParams params = {};
    const cuda::Stream stream = static_cast<cuda::Stream>(args.stream);
    cuda::Function function = nullptr;
    ContextScope context(*driver);
    fill_scores(args, mask, params);
    fill_sequences(args, problem, *kernel, params);
    fill_operands(args, problem, params);
    status = fill_sizes(args, problem, *kernel, params, error);
    if (status == FA3_OK) status = context.enter(*device, error);
    if (status == FA3_OK) status = get_function(*driver, *device, *pack, *kernel, &function, error);
    if (status == FA3_OK && kernel->dynamic)
        status = device->queues.take(*driver, stream, &params.queue, error);
    if (status == FA3_OK) status = encode_tensors(*driver, args, problem, *kernel, params, error);
    if (status != FA3_OK) return status;
    const uint32_t grid = grid_size(*device, *kernel, args.sm_margin, params.tiles);
    return launch(*driver, *kernel, function, grid, stream, params, error);
}

}  // namespace fa3
