// The work queues of persistent kernels, in device memory.
#pragma once

#include <stdint.h>

#include <atomic>

#include "system/driver.h"
#include "system/error.h"

namespace fa3 {

// Launches on one stream follow each other, and a kernel leaves its queue as it found it: one queue serves a
// stream for ever. A captured launch may be replayed on any stream, so each gets a queue of its own; only two
// executables made from one captured graph share theirs, and must not run at the same time.
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
