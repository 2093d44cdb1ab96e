// Checks of the arguments that attention operators share. They need no driver, no GPU and no pack.
#pragma once

#include <stdint.h>

#include "attention/problem.h"
#include "system/error.h"

namespace fa3 {

// Dtypes, numbers, and the shapes of q, k and v, which are fp16 or bf16.
fa3_status check_inputs(const Inputs& inputs, const Problem& problem, Error error);

// The shape and dtype of a result with the rows of q. Call it after check_inputs, like those below.
fa3_status check_output_shape(const fa3_tensor& out, const Inputs& inputs, const Problem& problem,
                              Error error);

// check_output_shape, and the layout of a result that the tensor copy engine writes.
fa3_status check_output(const fa3_tensor& out, const Inputs& inputs, const Problem& problem, Error error);

// Addresses and layouts of q, k and v, for kernels with tensor maps.
fa3_status check_layouts(const Inputs& inputs, const Problem& problem, Error error);

// Equal rows from slot to slot of two tensors, for a kernel that takes one number for both.
fa3_status check_same_slots(const fa3_tensor& tensor, const char* argument, const fa3_tensor& other,
                            const char* other_argument, Storage storage, Error error);

// 4-byte aligned addresses of the arrays of `sequences`.
fa3_status check_sequence_arrays(const fa3_sequences& sequences, Error error);

fa3_status check_address(const void* address, const char* argument, uintptr_t alignment, Error error);
fa3_status check_optional_address(const void* address, const char* argument, uintptr_t alignment,
                                  Error error);

fa3_status check_not_negative(int64_t value, const char* argument, Error error);

}  // namespace fa3
