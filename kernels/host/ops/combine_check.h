// Checks of the arguments of combine. They need no driver, no GPU and no pack.
#pragma once

#include "ops/combine.h"
#include "system/error.h"

namespace fa3 {

// The number of parts, the dtype of out, and the shape of out_partial.
fa3_status check_parts(const fa3_combine_args& args, Error error);

// check_parts, the shape of out, and the layout and address of everything.
fa3_status check_combine(const fa3_combine_args& args, Error error);

}  // namespace fa3
