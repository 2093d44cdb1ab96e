// The one lock of this library. It guards everything that is made once and then only read: the driver
// table, the pack, contexts, kernels and tile queues. A warm call never takes it.
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
