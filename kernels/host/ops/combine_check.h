// What a call of combine may ask for. Pure: needs no driver, no GPU and no pack.
#pragma once

#include "system/error.h"

namespace fa3 {

// The number of parts, the dtype of out, and the shape of out_partial.
fa3_status check_parts(const fa3_combine_args& args, Error error);

// The same, and the shape of out and the layout and address of everything.
fa3_status check_combine(const fa3_combine_args& args, Error error);

}  // namespace fa3
