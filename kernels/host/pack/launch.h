// The kernel that serves a call, and its launch.
#pragma once

#include "system/device.h"
#include "pack/pack.h"
#include "pack/choose.h"

namespace fa3 {

struct Target {
    const cuda::Driver* driver;
    Device* device;
    const Pack* pack;
    const Kernel* kernel;
};

fa3_status find_target(int32_t ordinal, const Wanted& wanted, Target* target, Error error);

// Launches with the one structure that the kernel takes. Needs the device's context current.
fa3_status launch(const Target& target, uint32_t blocks, cuda::Stream stream, void* params, Error error);

}  // namespace fa3
