// From a row of the pack to a kernel that can be launched.
#pragma once

#include "system/device.h"
#include "pack/pack.h"

namespace fa3 {

// The kernel's handle on this device; it is loaded, and PTX compiled, at first use. Needs the device's
// context current.
fa3_status get_function(const cuda::Driver& driver, const Device& device, const Pack& pack,
                        const Kernel& kernel, cuda::Function* function, Error error);

}  // namespace fa3
