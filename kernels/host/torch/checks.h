// Checks of torch tensors that the runtime cannot make.
#pragma once

#include <initializer_list>

#include "torch/tensor.h"

namespace fa3 {

// `q` is fp16 or bf16, and the others have its dtype.
fa3_status check_dtypes(const TorchTensor& q, std::initializer_list<const TorchTensor*> others, Error error);

fa3_status check_dtype(const TorchTensor& tensor, int32_t torch_dtype, Error error);

// The first is a CUDA tensor, and the others that are present are on its device.
fa3_status check_devices(const TorchTensor& first, std::initializer_list<const TorchTensor*> others,
                         Error error);

// The current stream of torch.
fa3_status current_stream(int32_t device, void** stream, Error error);

}  // namespace fa3
