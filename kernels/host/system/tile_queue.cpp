#include "system/tile_queue.h"

#include <stdlib.h>

#include "system/setup_lock.h"

namespace fa3 {
namespace {

constexpr size_t kQueueBytes = 128;  // a cache line, so that queues of different streams share none
constexpr size_t kBlockBytes = 64 << 10;

// Id of the legacy stream, whose handle is null. It cannot be captured, and a device has one.
constexpr unsigned long long kLegacyStream = ~0ull;

// Zeroes a block on a stream of its own: the legacy stream may be unusable while another one is captured.
cuda::Result zero(const cuda::Driver& driver, cuda::DevicePointer block, const char** call) {
    cuda::Stream stream = nullptr;
    *call = "cuStreamCreate";
    cuda::Result result = driver.stream_create(&stream, cuda::kStreamNonBlocking);
    if (result != cuda::kSuccess) return result;
    *call = "cuMemsetD8Async";
    result = driver.memory_set_async(block, 0, kBlockBytes, stream);
    if (result == cuda::kSuccess) {
        *call = "cuStreamSynchronize";
        result = driver.stream_synchronize(stream);
    }
    driver.stream_destroy(stream);
    return result;
}

}  // namespace

fa3_status QueuePool::take(const cuda::Driver& driver, cuda::Stream stream, TileQueue** queue, Error error) {
    unsigned long long id = kLegacyStream;
    if (stream != nullptr) {
        int capture = cuda::kCaptureStatusNone;
        cuda::Result result = driver.stream_is_capturing(stream, &capture);
        if (result != cuda::kSuccess) return driver.fail(result, "cuStreamIsCapturing", error);
        if (capture != cuda::kCaptureStatusNone) {
            SetupLock lock;
            return allocate(driver, queue, error);
        }
        // An id belongs to one stream until the process ends; a handle may be reused for another stream.
        result = driver.stream_get_id(stream, &id);
        if (result != cuda::kSuccess) return driver.fail(result, "cuStreamGetId", error);
    }
    *queue = find(id);
    return *queue != nullptr ? FA3_OK : add(driver, id, queue, error);
}

TileQueue* QueuePool::find(uint64_t stream_id) const {
    const StreamQueue* entry = buckets_[stream_id % kBuckets].load(std::memory_order_acquire);
    while (entry != nullptr && entry->stream_id != stream_id) entry = entry->next;
    return entry == nullptr ? nullptr : entry->queue;
}

fa3_status QueuePool::add(const cuda::Driver& driver, uint64_t stream_id, TileQueue** queue, Error error) {
    SetupLock lock;
    *queue = find(stream_id);
    if (*queue != nullptr) return FA3_OK;
    StreamQueue* entry = static_cast<StreamQueue*>(malloc(sizeof(StreamQueue)));
    if (entry == nullptr) return error.fail(FA3_DRIVER_ERROR, "out of host memory for a tile queue");
    if (fa3_status status = allocate(driver, queue, error); status != FA3_OK) {
        free(entry);
        return status;
    }
    std::atomic<StreamQueue*>& head = buckets_[stream_id % kBuckets];
    *entry = {stream_id, *queue, head.load()};
    head.store(entry, std::memory_order_release);
    return FA3_OK;
}

fa3_status QueuePool::allocate(const cuda::Driver& driver, TileQueue** queue, Error error) {
    if (next_ == end_) {
        const cuda::CaptureRelaxed relaxed(driver);
        cuda::DevicePointer block = 0;
        const char* call = "cuMemAlloc";
        cuda::Result result = driver.memory_allocate(&block, kBlockBytes);
        if (result != cuda::kSuccess) return driver.fail(result, call, error);
        result = zero(driver, block, &call);
        if (result != cuda::kSuccess) {
            driver.memory_free(block);
            return driver.fail(result, call, error);
        }
        next_ = block;
        end_ = block + kBlockBytes;
    }
    *queue = reinterpret_cast<TileQueue*>(next_);
    next_ += kQueueBytes;
    return FA3_OK;
}

}  // namespace fa3
