// Values on the stack of an operator. Tensors: `torch/tensor.h`.
#pragma once

#include <stdint.h>

#include <optional>

#include "system/error.h"
#include "torch/shim.h"

namespace fa3 {

// Where an operator with two results leaves them on the stack.
enum ResultSlot { kOut, kLse, kResults };

// The value in the box of an optional argument that is given. Frees the box, which lies on the heap. Null
// stands for an argument that is not given.
StableIValue unbox(StableIValue box);

double as_double(StableIValue value);
bool as_bool(StableIValue value);

// Takes a `float?` off the stack.
std::optional<double> take_double(StableIValue box);

// A number that the runtime takes as int32_t. `least` is 0, or INT32_MIN where negative numbers have a
// meaning.
fa3_status read_int(StableIValue value, const char* argument, int32_t least, int32_t* number, Error error);

}  // namespace fa3
