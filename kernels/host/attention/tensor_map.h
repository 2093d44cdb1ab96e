// Descriptors of tensors for the tensor copy engine (TMA).
#pragma once

#include "attention/layout.h"
#include "system/driver.h"
#include "system/error.h"

namespace fa3 {

// What one instruction copies, 128 bytes wide.
struct Box {
    uint32_t heads;
    uint32_t rows;
};

// Encodes the map of a tensor that passed check_layout, as `params/tensor_map.h` defines it. An empty tensor
// gets the address `spare`, which is aligned and not read.
fa3_status encode_tensor_map(const cuda::Driver& driver, int32_t device, const fa3_tensor& tensor,
                             Storage storage, const char* argument, Box box, void* spare, TensorMap* map,
                             Error error);

}  // namespace fa3
