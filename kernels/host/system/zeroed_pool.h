// Small blocks of device memory that are 0 between launches: queues and counters of kernels.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <atomic>

#include "system/driver.h"
#include "system/error.h"

namespace fa3 {

// Launches on one stream run in order, and a kernel resets its block when it ends: one block serves a stream
// until the process ends. A captured launch may be replayed on any stream, so each gets a block of its own;
// two executables made from one captured graph share a block and must not run at the same time.
class ZeroedPool {
  public:
    // The block for the next launch on `stream`. `bytes`: the same in every call, a multiple of a cache line,
    // so that blocks of different streams share none. Needs the device's context current.
    fa3_status take(const cuda::Driver& driver, cuda::Stream stream, size_t bytes, void** block, Error error);

  private:
    struct StreamBlock {
        uint64_t stream_id;
        void* block;
        StreamBlock* next;
    };

    void* find(uint64_t stream_id) const;
    fa3_status add(const cuda::Driver& driver, uint64_t stream_id, size_t bytes, void** block, Error error);
    fa3_status allocate(const cuda::Driver& driver, size_t bytes, void** block, Error error);

    static constexpr unsigned kBuckets = 64;
    std::atomic<StreamBlock*> buckets_[kBuckets];  // lists that only grow, at their heads
    cuda::DevicePointer next_;
    cuda::DevicePointer end_;
};

}  // namespace fa3
