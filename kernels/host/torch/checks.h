// What the operators ask of their tensors beside what the runtime checks.
#pragma once

#include <initializer_list>
#include <optional>

#include "torch/tensor.h"

namespace fa3 {

// q is fp16 or bf16, and the others are the same.
fa3_status check_dtypes(const TorchTensor& q, std::initializer_list<const TorchTensor*> others, Error error);

fa3_status check_dtype(const TorchTensor& tensor, int32_t dtype, Error error);

// The first is a CUDA tensor, and the others that are there are on its device.
fa3_status check_devices(const TorchTensor& first, std::initializer_list<const TorchTensor*> others,
                         Error error);

// A number that the runtime takes as int32_t. `least` is 0, or INT32_MIN where a negative number has a
// meaning.
fa3_status read_int(StableIValue value, const char* argument, int32_t least, int32_t* number, Error error);

double as_double(StableIValue value);

// Takes a `float?` off the stack.
std::optional<double> take_double(StableIValue box);

bool as_bool(StableIValue value);

// The stream that torch works on.
fa3_status current_stream(int32_t device, void** stream, Error error);

}  // namespace fa3
