// How the tensor copy engine (TMA) is told about a tensor.
#pragma once

#include "driver.h"
#include "error.h"

namespace fa3 {

// Encodes the map of a tensor that passed check_layout, in boxes of 64 elements x `box_rows` positions. An
// empty tensor is described as one of extent 1 at `spare`, an aligned address that is never read.
fa3_status encode_tensor_map(const cuda::Driver& driver, const fa3_tensor& tensor, const char* argument,
                             fa3_dtype dtype, uint32_t box_rows, void* spare, TensorMap* map, Error error);

}  // namespace fa3
