#include "pack/launch.h"

#include "pack/loader.h"

namespace fa3 {
namespace {

constexpr size_t kMaxLaunches = 8;
constexpr size_t kQueueBytes = 128;  // a cache line
static_assert(sizeof(TileQueue) <= kQueueBytes);

}  // namespace

fa3_status find_target(int32_t ordinal, Target* target, Error error) {
    fa3_status status = cuda::get_driver(&target->driver, error);
    if (status == FA3_OK) status = get_device(*target->driver, ordinal, &target->device, error);
    return status == FA3_OK ? get_pack(&target->pack, error) : status;
}

fa3_status take_queue(const cuda::Driver& driver, Device& device, cuda::Stream stream, TileQueue** queue,
                      Error error) {
    void* block = nullptr;
    const fa3_status status = device.queues.take(driver, stream, kQueueBytes, &block, error);
    *queue = static_cast<TileQueue*>(block);
    return status;
}

fa3_status launch_all(const Target& target, std::initializer_list<Launch> launches, cuda::Stream stream,
                      Error error) {
    cuda::Function functions[kMaxLaunches];
    size_t count = 0;
    for (const Launch& launch : launches) {
        if (count == kMaxLaunches) {
            return error.fail(FA3_DRIVER_ERROR, "a call has more than %zu launches", kMaxLaunches);
        }
        const fa3_status status = get_function(*target.driver, *target.device, *target.pack, *launch.kernel,
                                               &functions[count++], error);
        if (status != FA3_OK) return status;
    }
    count = 0;
    for (const Launch& launch : launches) {
        const cuda::Function function = functions[count++];
        if (launch.blocks == 0) continue;
        cuda::LaunchAttribute overlap = {};
        overlap.id = cuda::LaunchAttribute::kProgrammaticStreamSerialization;
        overlap.programmatic_stream_serialization_allowed = 1;
        cuda::LaunchConfig config = {};
        config.grid_x = launch.blocks;
        config.grid_y = config.grid_z = 1;
        config.block_x = launch.kernel->threads;
        config.block_y = config.block_z = 1;
        config.shared_bytes = launch.kernel->smem_bytes;
        config.stream = stream;
        config.attributes = &overlap;
        config.attribute_count = launch.overlaps_previous ? 1 : 0;
        void* parameters[] = {launch.params};
        const cuda::Result result = target.driver->launch(&config, function, parameters, nullptr);
        if (result != cuda::kSuccess) return target.driver->fail(result, "cuLaunchKernelEx", error);
    }
    return FA3_OK;
}

uint32_t resident_blocks(const Device& device, const Record& kernel, int32_t sm_margin, int64_t work_items) {
    const int64_t resident = int64_t{device.multiprocessors - sm_margin} * kernel.blocks_per_sm;
    return static_cast<uint32_t>(work_items < resident ? work_items : resident);
}

}  // namespace fa3
