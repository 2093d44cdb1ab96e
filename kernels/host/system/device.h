// One GPU: attributes that are read from the driver once.
#pragma once

#include <atomic>

#include "system/driver.h"
#include "system/error.h"
#include "system/zeroed_pool.h"

namespace fa3 {

constexpr int kMaxDevices = 64;

struct Device {
    int ordinal;
    cuda::DeviceHandle handle;
    int sm;  // 10 * major + minor of its compute capability
    int multiprocessors;
    int shared_bytes;  // the most that a thread block can have
    int l2_bytes;
    char name[96];
    std::atomic<cuda::Context> context;  // primary context, null until first use
    std::atomic<bool> described;
    ZeroedPool queues;  // of persistent kernels
    ZeroedPool counters;  // of decode kernels
};

// Needs no context.
fa3_status get_device(const cuda::Driver& driver, int ordinal, Device** device, Error error);

// Makes the primary context of a device current during its lifetime, then restores the caller's.
class ContextScope {
  public:
    explicit ContextScope(const cuda::Driver& driver) : driver_(driver) {}
    ~ContextScope();
    ContextScope(const ContextScope&) = delete;
    ContextScope& operator=(const ContextScope&) = delete;

    fa3_status enter(Device& device, Error error);

  private:
    const cuda::Driver& driver_;
    bool pushed_ = false;
};

}  // namespace fa3
