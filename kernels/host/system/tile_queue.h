// Work queues of persistent kernels, in device memory.
#pragma once

#include <stdint.h>

#include <atomic>

#include "params/tile_queue.h"
#include "system/driver.h"
#include "system/error.h"

namespace fa3 {

// Launches on one stream run in order, and a kernel resets its queue when it ends: one queue serves a stream
// until the process ends. A captured launch may be replayed on any stream, so each gets a queue of its own;
// two executables made from one captured graph share a queue and must not run at the same time.
class QueuePool {
  public:
    // The queue for the next launch on `stream`. Needs the device's context current.
    fa3_status take(const cuda::Driver& driver, cuda::Stream stream, TileQueue** queue, Error error);

  private:
    struct StreamQueue {
        uint64_t stream_id;
        TileQueue* queue;
        StreamQueue* next;
    };

    TileQueue* find(uint64_t stream_id) const;
    fa3_status add(const cuda::Driver& driver, uint64_t stream_id, TileQueue** queue, Error error);
    fa3_status allocate(const cuda::Driver& driver, TileQueue** queue, Error error);

    static constexpr unsigned kBuckets = 64;
    std::atomic<StreamQueue*> buckets_[kBuckets];  // lists that only grow, at their heads
    cuda::DevicePointer next_;
    cuda::DevicePointer end_;
};

}  // namespace fa3
