// Checks of the arguments of bwd. They need no driver, no GPU and no pack.
#pragma once

#include "attention/problem.h"
#include "ops/bwd.h"
#include "system/error.h"

namespace fa3 {

// Dtypes, numbers and shapes of all tensors.
fa3_status check_bwd_shapes(const fa3_bwd_args& args, const Problem& problem, Error error);

// check_bwd_shapes, and the layout and address of everything but the workspace.
fa3_status check_bwd(const fa3_bwd_args& args, const Problem& problem, Error error);

// Whether no gradient has an element.
bool has_no_gradient(const fa3_bwd_args& args);

}  // namespace fa3
