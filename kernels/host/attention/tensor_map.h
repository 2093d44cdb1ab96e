// How the tensor copy engine (TMA) is told about a tensor.
#pragma once

#include "system/driver.h"
#include "system/error.h"
#include "attention/layout.h"

namespace fa3 {

// What is copied at a time, 64 elements wide.
struct Box {
    uint32_t heads;
    uint32_t rows;
};

// Makes the map of a tensor that passed check_layout; fwd_params.h says what the kernels expect of it. An
// empty tensor is described at `spare`, an aligned address that is never read.
fa3_status encode_tensor_map(const cuda::Driver& driver, int32_t device, const fa3_tensor& tensor,
                             Storage storage, const char* argument, fa3_dtype dtype, Box box, void* spare,
                             TensorMap* map, Error error);

}  // namespace fa3
