#include "fwd.h"

#include <stdint.h>

#include "../device/fwd_params.h"
#include "device.h"
#include "fwd_check.h"
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

// How many query heads are handed out together: those of as many key heads as fit in the L2, at least one.
int32_t heads_sharing_l2(const fa3_fwd_args& args) {
    const int64_t heads_q = args.q.shape[2];
    const int64_t heads_kv = args.k.shape[2];
    const int64_t all_kv = heads_kv * args.q.shape[0];
    const int64_t bytes_per_head = args.k.shape[1] * (args.k.shape[3] + args.v.shape[3]) * kElementBytes;
    int64_t sharing = bytes_per_head == 0 ? all_kv : kL2BytesForKv / bytes_per_head;
    if (sharing < 1) sharing = 1;
    if (sharing > all_kv) sharing = all_kv;
    return static_cast<int32_t>(sharing * (heads_q / heads_kv));
}

fa3_status fill_sizes(const fa3_fwd_args& args, const Kernel& kernel, FwdParams& params, Error error) {
    const int64_t heads = args.q.shape[0] * args.q.shape[2];
    const int64_t tiles_m = ceil_div(args.q.shape[1], kernel.tile_m);
    if (heads > INT32_MAX || tiles_m * heads > INT32_MAX) {
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "q has batch %lld, seqlen %lld and %lld heads, which is more than the %d tiles of %u "
            "positions that a launch can number",
            shown(args.q.shape[0]), shown(args.q.shape[1]), shown(args.q.shape[2]), INT32_MAX, kernel.tile_m);
    }
    params.scale_log2 = args.softmax_scale * kLog2E;
    params.batch = static_cast<int32_t>(args.q.shape[0]);
    params.heads_q = static_cast<int32_t>(args.q.shape[2]);
    params.heads_kv = static_cast<int32_t>(args.k.shape[2]);
    params.seqlen_q = static_cast<int32_t>(args.q.shape[1]);
    params.seqlen_k = static_cast<int32_t>(args.k.shape[1]);
    params.tiles_m = static_cast<int32_t>(tiles_m);
    params.tiles = static_cast<int32_t>(tiles_m * heads);
    params.l2_heads = heads_sharing_l2(args);
    return FA3_OK;
}

fa3_status encode_tensors(const cuda::Driver& driver, const fa3_fwd_args& args, const Kernel& kernel,
                          FwdParams& params, Error error) {
    const auto encode = [&](const fa3_tensor& tensor, const char* argument, uint32_t box_rows,
                            TensorMap& map) {
        return encode_tensor_map(driver, tensor, argument, static_cast<fa3_dtype>(args.dtype), box_rows,
                                 args.out.data, &map, error);
    };
    fa3_status status = encode(args.q, "q", kernel.box_rows_q, params.q);
    if (status == FA3_OK) status = encode(args.k, "k", kernel.box_rows_kv, params.k);
    if (status == FA3_OK) status = encode(args.v, "v", kernel.box_rows_kv, params.v);
    if (status == FA3_OK) status = encode(args.out, "out", kernel.box_rows_out, params.out);
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
    if (fa3_status status = check_problem(args, error); status != FA3_OK) return status;
    if (fa3_status status = check_buffers(args, error); status != FA3_OK) return status;
    if (is_empty(args.out)) return FA3_OK;

    const cuda::Driver* driver = nullptr;
    Device* device = nullptr;
    const Pack* pack = nullptr;
    const Kernel* kernel = nullptr;
    fa3_status status = cuda::get_driver(&driver, error);
    if (status == FA3_OK) status = get_device(*driver, args.device, &device, error);
    if (status == FA3_OK) status = get_pack(&pack, error);
    if (status != FA3_OK) return status;

    // Aligned to the bottom right, one query sees every key: the full kernel needs no mask.
    const bool masked = args.causal == 1 && args.q.shape[1] > 1;
    const Wanted wanted = {"fwd", masked ? "causal" : "full", static_cast<fa3_dtype>(args.dtype),
                           args.q.shape[3], args.v.shape[3]};
    status = choose_kernel(*pack, *device, wanted, &kernel, error);
    if (status != FA3_OK) return status;
    if (args.sm_margin >= device->multiprocessors) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "sm_margin is %d; it should be less than the %d multiprocessors of device %d",
                          args.sm_margin, device->multiprocessors, device->ordinal);
    }

    FwdParams params = {};
    params.lse = args.lse;
    const cuda::Stream stream = static_cast<cuda::Stream>(args.stream);
    cuda::Function function = nullptr;
    ContextScope context(*driver);
    status = fill_sizes(args, *kernel, params, error);
    if (status == FA3_OK) status = context.enter(*device, error);
    if (status == FA3_OK) status = get_function(*driver, *device, *pack, *kernel, &function, error);
    if (status == FA3_OK && kernel->dynamic)
        status = device->queues.take(*driver, stream, &params.queue, error);
    if (status == FA3_OK) status = encode_tensors(*driver, args, *kernel, params, error);
    if (status != FA3_OK) return status;
    const uint32_t grid = grid_size(*device, *kernel, args.sm_margin, params.tiles);
    return launch(*driver, *kernel, function, grid, stream, params, error);
}

}  // namespace fa3
