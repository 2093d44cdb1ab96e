// Attention forward: check, choose a kernel, describe the tensors, launch.
#pragma once

#include "system/error.h"

namespace fa3 {

fa3_status fwd(const fa3_fwd_args& args, Error error);

}  // namespace fa3
