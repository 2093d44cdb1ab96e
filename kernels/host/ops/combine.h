// Joining the results of attention over parts of the keys.
#pragma once

#include "system/error.h"

namespace fa3 {

fa3_status combine(const fa3_combine_args& args, Error error);

}  // namespace fa3
