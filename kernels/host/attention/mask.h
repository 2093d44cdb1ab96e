// The mask of a call: which kind of kernel applies it, and the numbers it is given.
#pragma once

#include <stdint.h>

#include "attention/problem.h"
#include "pack/kernel.h"

namespace fa3 {

struct FwdMask {
    Mask kind;
    int32_t window_left;  // negative: all
    int32_t window_right;
    int32_t attention_chunk;
};

FwdMask resolve_mask(const fa3_fwd_args& args, const Problem& problem);

}  // namespace fa3
