// An owned tensor of torch, with the name of its argument.
#pragma once

#include "attention/layout.h"
#include "system/error.h"
#include "torch/shim.h"

namespace fa3 {

class TorchTensor {
  public:
    explicit TorchTensor(const char* argument) : argument_(argument) {}
    TorchTensor(const char* argument, StableIValue owned);  // 0 for no tensor
    ~TorchTensor();
    TorchTensor(const TorchTensor&) = delete;
    TorchTensor& operator=(const TorchTensor&) = delete;

    // Takes a `Tensor?` off the stack.
    static TorchTensor optional(const char* argument, StableIValue box);

    bool is_present() const { return handle_ != nullptr; }
    int64_t rank() const;
    const char* argument() const { return argument_; }
    int32_t dtype() const { return dtype_; }
    int32_t device_type() const { return device_type_; }
    int32_t device_index() const { return device_index_; }
    bool is_on_device_of(const TorchTensor& other) const;

    // Fails unless the tensor is strided and has the `wanted` number of dimensions, whose names are
    // `dimensions`, as
    // "(batch, columns)".
    fa3_status shape(int64_t wanted, const char* dimensions, int64_t** sizes, int64_t** strides,
                     Error error) const;

    // An operand of attention: four dimensions, or three for packed sequences. Its dtype is -1 where no
    // kernel has it.
    fa3_status view(Storage storage, fa3_tensor* view, Error error) const;

    fa3_status data(void** address, Error error) const;

    // Becomes a new tensor on the device of `like`.
    fa3_status allocate(int64_t rank, const int64_t* shape, const int64_t* strides, int32_t dtype,
                        const TorchTensor& like, Error error);

    // The same, contiguous except that its rows (of its last dimension) start at multiples of `row_step`
    // elements.
    fa3_status allocate_rows(int64_t rank, const int64_t* shape, int64_t row_step, int32_t dtype,
                             const TorchTensor& like, Error error);

    // Becomes a view of another tensor, `offset` elements from where that one begins.
    fa3_status look_into(const TorchTensor& other, int64_t rank, const int64_t* shape, const int64_t* strides,
                         int64_t offset, Error error);

    // Copies the elements of a tensor of its shape.
    fa3_status copy_from(const TorchTensor& other, Error error);

    void swap(TorchTensor& other);

    // Copies its elements to `copy`, which has its shape, and becomes it.
    fa3_status move_to(TorchTensor& copy, Error error);

    // Becomes a copy of itself that the tensor copy engine can read; `view` becomes the view of the copy.
    fa3_status make_readable(Storage storage, fa3_tensor* view, Error error);

    StableIValue release();

  private:
    const char* argument_;
    AtenTensorHandle handle_ = nullptr;
    int32_t dtype_ = -1;
    int32_t device_type_ = -1;
    int32_t device_index_ = -1;
};

// Dimensions of the torch tensor: four, or three for packed sequences, which have no batch.
int64_t rank_of(Storage storage);

// Sets the shape and strides of a view from those of the torch tensor.
void set_extents(Storage storage, const int64_t* sizes, const int64_t* strides, fa3_tensor* view);

// For example "cuda:0".
void append_device(Text& text, const TorchTensor& tensor);

}  // namespace fa3
