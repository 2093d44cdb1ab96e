// Loading of kernels.
#pragma once

#include "pack/pack.h"
#include "system/device.h"

namespace fa3 {

// The handle of a kernel on this device. The first use loads it and compiles PTX. Needs the context of the
// device current.
fa3_status get_function(const cuda::Driver& driver, const Device& device, const Pack& pack,
                        const Record& record, cuda::Function* function, Error error);

}  // namespace fa3
