// Element types, as torch and as this library number them.
#pragma once

#include <stdint.h>

#include "system/error.h"

namespace fa3 {

// The fa3_dtype of one of torch's scalar types; -1 where there is none.
int32_t dtype_of_torch(int32_t torch_dtype);

// The reverse; -1 where there is none.
int32_t torch_dtype_of(int32_t dtype);

// For example "float32".
void append_dtype(Text& text, int32_t torch_dtype);

}  // namespace fa3
