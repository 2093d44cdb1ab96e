#include "pack/launch.h"

#include "pack/loader.h"

namespace fa3 {

fa3_status find_target(int32_t ordinal, const Wanted& wanted, Target* target, Error error) {
    fa3_status status = cuda::get_driver(&target->driver, error);
    if (status == FA3_OK) status = get_device(*target->driver, ordinal, &target->device, error);
    if (status == FA3_OK) status = get_pack(&target->pack, error);
    if (status == FA3_OK)
        status = choose_kernel(*target->pack, *target->device, wanted, &target->kernel, error);
    return status;
}

fa3_status launch(const Target& target, uint32_t blocks, cuda::Stream stream, void* params, Error error) {
    const Kernel& kernel = *target.kernel;
    cuda::Function function = nullptr;
    const fa3_status status =
        get_function(*target.driver, *target.device, *target.pack, kernel, &function, error);
    if (status != FA3_OK) return status;
    cuda::LaunchAttribute cluster = {};
    cluster.id = cuda::LaunchAttribute::kClusterDimension;
    cluster.cluster = {kernel.cluster, 1, 1};
    cuda::LaunchConfig config = {};
    config.grid_x = blocks;
    config.grid_y = config.grid_z = 1;
    config.block_x = kernel.threads;
    config.block_y = config.block_z = 1;
    config.shared_bytes = kernel.smem_bytes;
    config.stream = stream;
    config.attributes = &cluster;
    config.attribute_count = kernel.cluster > 1 ? 1 : 0;
    void* parameters[] = {params};
    const cuda::Result result = target.driver->launch(&config, function, parameters, nullptr);
    return result == cuda::kSuccess ? FA3_OK : target.driver->fail(result, "cuLaunchKernelEx", error);
}

}  // namespace fa3
