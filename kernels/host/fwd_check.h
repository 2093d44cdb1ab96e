// What an attention forward call may ask for. Pure: needs no driver, no GPU and no pack.
#pragma once

#include "error.h"

namespace fa3 {

// dtype, softmax_scale, sm_margin and the shapes of q, k and v.
fa3_status check_problem(const fa3_fwd_args& args, Error error);

// The shape of out, and the address and layout of every tensor. Call it after check_problem.
fa3_status check_buffers(const fa3_fwd_args& args, Error error);

}  // namespace fa3
