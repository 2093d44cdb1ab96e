#include "system/zeroed_pool.h"

#include <stdlib.h>

#include "system/setup_lock.h"

namespace fa3 {
namespace {

constexpr size_t kAllocationBytes = 64 << 10;

// Id of the legacy stream, whose handle is null. It cannot be captured, and a device has one.
constexpr unsigned long long kLegacyStream = ~0ull;

// Zeroes an allocation on a stream of its own: the legacy stream may be unusable while another one is
// captured.
cuda::Result zero(const cuda::Driver& driver, cuda::DevicePointer memory, const char** call) {
    cuda::Stream stream = nullptr;
    *call = "cuStreamCreate";
    cuda::Result result = driver.stream_create(&stream, cuda::kStreamNonBlocking);
    if (result != cuda::kSuccess) return result;
    *call = "cuMemsetD8Async";
    result = driver.memory_set_async(memory, 0, kAllocationBytes, stream);
    if (result == cuda::kSuccess) {
        *call = "cuStreamSynchronize";
        result = driver.stream_synchronize(stream);
    }
    driver.stream_destroy(stream);
    return result;
}

}  // namespace

fa3_status ZeroedPool::take(const cuda::Driver& driver, cuda::Stream stream, size_t bytes, void** block,
                            Error error) {
    unsigned long long id = kLegacyStream;
    if (stream != nullptr) {
        int capture = cuda::kCaptureStatusNone;
        cuda::Result result = driver.stream_is_capturing(stream, &capture);
        if (result != cuda::kSuccess) return driver.fail(result, "cuStreamIsCapturing", error);
        if (capture != cuda::kCaptureStatusNone) {
            SetupLock lock;
            return allocate(driver, bytes, block, error);
        }
        // An id belongs to one stream until the process ends; a handle may be reused for another stream.
        result = driver.stream_get_id(stream, &id);
        if (result != cuda::kSuccess) return driver.fail(result, "cuStreamGetId", error);
    }
    *block = find(id);
    return *block != nullptr ? FA3_OK : add(driver, id, bytes, block, error);
}

void* ZeroedPool::find(uint64_t stream_id) const {
    const StreamBlock* entry = buckets_[stream_id % kBuckets].load(std::memory_order_acquire);
    while (entry != nullptr && entry->stream_id != stream_id) entry = entry->next;
    return entry == nullptr ? nullptr : entry->block;
}

fa3_status ZeroedPool::add(const cuda::Driver& driver, uint64_t stream_id, size_t bytes, void** block,
                           Error error) {
    SetupLock lock;
    *block = find(stream_id);
    if (*block != nullptr) return FA3_OK;
    StreamBlock* entry = static_cast<StreamBlock*>(malloc(sizeof(StreamBlock)));
    if (entry == nullptr) return error.fail(FA3_DRIVER_ERROR, "out of host memory for a block of a stream");
    if (fa3_status status = allocate(driver, bytes, block, error); status != FA3_OK) {
        free(entry);
        return status;
    }
    std::atomic<StreamBlock*>& head = buckets_[stream_id % kBuckets];
    *entry = {stream_id, *block, head.load()};
    head.store(entry, std::memory_order_release);
    return FA3_OK;
}

fa3_status ZeroedPool::allocate(const cuda::Driver& driver, size_t bytes, void** block, Error error) {
    if (end_ - next_ < bytes) {
        const cuda::CaptureRelaxed relaxed(driver);
        cuda::DevicePointer memory = 0;
        const char* call = "cuMemAlloc";
        cuda::Result result = driver.memory_allocate(&memory, kAllocationBytes);
        if (result != cuda::kSuccess) return driver.fail(result, call, error);
        result = zero(driver, memory, &call);
        if (result != cuda::kSuccess) {
            driver.memory_free(memory);
            return driver.fail(result, call, error);
        }
        next_ = memory;
        end_ = memory + kAllocationBytes;
    }
    *block = reinterpret_cast<void*>(next_);
    next_ += bytes;
    return FA3_OK;
}

}  // namespace fa3
