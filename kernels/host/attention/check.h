// What an attention forward call may ask for. Pure: needs no driver, no GPU and no pack.
#pragma once

#include "system/error.h"
#include "attention/problem.h"

namespace fa3 {

// The numbers, and the shapes of q, k and v. `problem` is the arguments' description.
fa3_status check_problem(const fa3_fwd_args& args, const Problem& problem, Error error);

// The shape of out. Call it after check_problem, like those below.
fa3_status check_output_shape(const fa3_fwd_args& args, const Problem& problem, Error error);

// check_output_shape, and the layout and room of out.
fa3_status check_output(const fa3_fwd_args& args, const Problem& problem, Error error);

// check_output, and the address and layout of every tensor. Call it after check_problem.
fa3_status check_buffers(const fa3_fwd_args& args, const Problem& problem, Error error);

}  // namespace fa3
