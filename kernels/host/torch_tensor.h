// A tensor of torch, owned, under the name of the argument it came in.
#pragma once

#include "error.h"
#include "torch_shim.h"

namespace fa3 {

class TorchTensor {
  public:
    explicit TorchTensor(const char* argument) : argument_(argument) {}
    TorchTensor(const char* argument, StableIValue owned);
    ~TorchTensor();
    TorchTensor(const TorchTensor&) = delete;
    TorchTensor& operator=(const TorchTensor&) = delete;

    const char* argument() const { return argument_; }
    int32_t dtype() const { return dtype_; }
    int32_t device_type() const { return device_type_; }
    int32_t device_index() const { return device_index_; }
    bool is_on_device_of(const TorchTensor& other) const;

    // Fails unless the tensor is strided and has four dimensions.
    fa3_status view(fa3_tensor* view, Error error) const;

    fa3_status data(void** address, Error error) const;

    // Becomes a new contiguous tensor on the device of `like`.
    fa3_status allocate(int64_t rank, const int64_t* shape, int32_t dtype, const TorchTensor& like,
                        Error error);

    // Becomes a contiguous copy of itself, and `view` the copy's view.
    fa3_status make_contiguous(fa3_tensor* view, Error error);

    StableIValue release();

  private:
    const char* argument_;
    AtenTensorHandle handle_ = nullptr;
    int32_t dtype_ = -1;
    int32_t device_type_ = -1;
    int32_t device_index_ = -1;
};

// For example "float32" and "cuda:0".
void append_dtype(Text& text, int32_t dtype);
void append_device(Text& text, const TorchTensor& tensor);

}  // namespace fa3
