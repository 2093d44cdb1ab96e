// Which kernel of the pack serves a call.
#pragma once

#include "system/device.h"
#include "pack/pack.h"

namespace fa3 {

struct Wanted {
    Op op;
    Mask mask;
    fa3_dtype dtype;
    int64_t head_dim;
    int64_t head_dim_v;
    int64_t seqlen_q;  // of every sequence; 0 when they differ, so that no sequence's kernel depends on its
                       // neighbours
};

// Of the kernels that run on the device and cover the call: a cubin for exactly this SM before a portable
// one, and PTX last, each of the newest SM; then the one with the least work, and of equals the one made for
// the longest sequences that these still are. FA3_UNSUPPORTED, saying what the pack holds, when there is
// none.
fa3_status choose_kernel(const Pack& pack, const Device& device, const Wanted& wanted, const Kernel** kernel,
                         Error error);

// FA3_OK when the pack holds any kernel for this device.
fa3_status check_device(const Pack& pack, const Device& device, Error error);

// See fa3_allow_kernels.
fa3_status allow_kernels(uint32_t codes, int32_t seqlen_q, Error error);

}  // namespace fa3
