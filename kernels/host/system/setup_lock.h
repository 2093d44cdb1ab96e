// The one lock of this library. It guards what is created once and then only read: the driver table, the
// pack, contexts, kernels and tile queues. A warm call does not take it.
#pragma once

namespace fa3 {

class SetupLock {
  public:
    SetupLock();
    ~SetupLock();
    SetupLock(const SetupLock&) = delete;
    SetupLock& operator=(const SetupLock&) = delete;
};

}  // namespace fa3
