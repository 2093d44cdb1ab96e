// Which kernel of the pack serves a call.
#pragma once

#include "device.h"
#include "pack.h"

namespace fa3 {

struct Wanted {
    const char* op;
    const char* mask;
    fa3_dtype dtype;
    int64_t head_dim;
    int64_t head_dim_v;
};

// The smallest kernel of the pack whose head dimensions cover those wanted; FA3_UNSUPPORTED, listing what the
// pack holds, when none does.
fa3_status choose_kernel(const Pack& pack, const Device& device, const Wanted& wanted, const Kernel** kernel,
                         Error error);

// FA3_OK when the pack holds any kernel for this device.
fa3_status check_device(const Pack& pack, const Device& device, Error error);

}  // namespace fa3
