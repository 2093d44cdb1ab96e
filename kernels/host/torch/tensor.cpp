#include "torch/tensor.h"

#include <utility>

#include "torch/dtypes.h"
#include "torch/stack.h"

namespace fa3 {
namespace {

constexpr int64_t kMaxRank = 5;

// What torch said about its failed call, if this torch can tell.
const char* torch_message() {
    const char* message = nullptr;
    if (torch_exception_get_what_without_backtrace != nullptr) {
        message = torch_exception_get_what_without_backtrace();
    }
    return message == nullptr || *message == '\0' ? "torch gave no reason" : message;
}

AtenTensorHandle as_handle(StableIValue value) { return reinterpret_cast<AtenTensorHandle>(value); }

}  // namespace

int64_t rank_of(Storage storage) { return storage == Storage::kPacked ? kRank - 1 : kRank; }

void set_extents(Storage storage, const int64_t* sizes, const int64_t* strides, fa3_tensor* view) {
    const int64_t first = kRank - rank_of(storage);
    view->shape[0] = 1;
    view->stride[0] = 0;
    for (int64_t i = first; i < kRank; ++i) {
        view->shape[i] = sizes[i - first];
        view->stride[i] = strides[i - first];
    }
}

TorchTensor::TorchTensor(const char* argument, StableIValue owned)
    : argument_(argument), handle_(as_handle(owned)) {
    if (handle_ == nullptr) return;
    aoti_torch_get_dtype(handle_, &dtype_);
    aoti_torch_get_device_type(handle_, &device_type_);
    aoti_torch_get_device_index(handle_, &device_index_);
}

TorchTensor TorchTensor::optional(const char* argument, StableIValue box) {
    return box == 0 ? TorchTensor(argument) : TorchTensor(argument, unbox(box));
}

TorchTensor::~TorchTensor() {
    if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
}

bool TorchTensor::is_on_device_of(const TorchTensor& other) const {
    return device_type_ == other.device_type_ && device_index_ == other.device_index_;
}

int64_t TorchTensor::rank() const {
    int64_t rank = 0;
    return aoti_torch_get_dim(handle_, &rank) == 0 ? rank : 0;
}

fa3_status TorchTensor::shape(int64_t wanted, const char* dimensions, int64_t** sizes, int64_t** strides,
                              Error error) const {
    if (const int64_t found = rank(); found != wanted) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s has %lld dimensions; it should have %lld: %s", argument_,
                          shown(found), shown(wanted), dimensions);
    }
    if (aoti_torch_get_sizes(handle_, sizes) != 0 || aoti_torch_get_strides(handle_, strides) != 0) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s has no strides: %s", argument_, torch_message());
    }
    return FA3_OK;
}

fa3_status TorchTensor::view(Storage storage, fa3_tensor* view, Error error) const {
    const bool packed = storage == Storage::kPacked;
    const char* dimensions = packed                       ? "(total, heads, head_dim)"
                             : storage == Storage::kPages ? "(pages, page_size, heads, head_dim)"
                                                          : "(batch, seqlen, heads, head_dim)";
    int64_t* sizes = nullptr;
    int64_t* strides = nullptr;
    fa3_status status = shape(rank_of(storage), dimensions, &sizes, &strides, error);
    if (status != FA3_OK) return status;
    set_extents(storage, sizes, strides, view);
    view->dtype = dtype_of_torch(dtype_);
    return data(&view->data, error);
}

fa3_status TorchTensor::data(void** address, Error error) const {
    if (aoti_torch_get_data_ptr(handle_, address) == 0) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s has no data: %s", argument_, torch_message());
}

fa3_status TorchTensor::allocate(int64_t rank, const int64_t* shape, const int64_t* strides, int32_t dtype,
                                 const TorchTensor& like, Error error) {
    dtype_ = dtype;
    device_type_ = like.device_type_;
    device_index_ = like.device_index_;
    if (aoti_torch_empty_strided(rank, shape, strides, dtype_, device_type_, device_index_, &handle_) != 0) {
        handle_ = nullptr;
        return error.fail(FA3_DRIVER_ERROR, "%s could not be allocated: %s", argument_, torch_message());
    }
    return FA3_OK;
}

fa3_status TorchTensor::look_into(const TorchTensor& other, int64_t rank, const int64_t* shape,
                                  const int64_t* strides, int64_t offset, Error error) {
    dtype_ = other.dtype_;
    device_type_ = other.device_type_;
    device_index_ = other.device_index_;
    if (aoti_torch__reinterpret_tensor(other.handle_, rank, shape, strides, offset, &handle_) != 0) {
        handle_ = nullptr;
        return error.fail(FA3_INVALID_ARGUMENT, "%s is no view of %s: %s", argument_, other.argument_,
                          torch_message());
    }
    return FA3_OK;
}

fa3_status TorchTensor::allocate_rows(int64_t rank, const int64_t* shape, int64_t row_step, int32_t dtype,
                                      const TorchTensor& like, Error error) {
    int64_t strides[kMaxRank];
    int64_t stride = 1;
    for (int64_t i = rank - 1; i >= 0; --i) {
        strides[i] = stride;
        stride *= shape[i] > 1 ? shape[i] : 1;
        if (i == rank - 1) stride = (stride + row_step - 1) / row_step * row_step;
    }
    return allocate(rank, shape, strides, dtype, like, error);
}

fa3_status TorchTensor::copy_from(const TorchTensor& other, Error error) {
    if (aoti_torch_copy_(handle_, other.handle_, /*non_blocking=*/0) == 0) return FA3_OK;
    return error.fail(FA3_DRIVER_ERROR, "%s could not be copied: %s", other.argument_, torch_message());
}

void TorchTensor::swap(TorchTensor& other) {
    std::swap(argument_, other.argument_);
    std::swap(handle_, other.handle_);
    std::swap(dtype_, other.dtype_);
    std::swap(device_type_, other.device_type_);
    std::swap(device_index_, other.device_index_);
}

fa3_status TorchTensor::move_to(TorchTensor& copy, Error error) {
    if (fa3_status status = copy.copy_from(*this, error); status != FA3_OK) return status;
    aoti_torch_delete_tensor_object(handle_);
    handle_ = as_handle(copy.release());
    return FA3_OK;
}

fa3_status TorchTensor::make_readable(Storage storage, fa3_tensor* view, Error error) {
    const int64_t rank = rank_of(storage);
    TorchTensor copy(argument_);
    fa3_status status = copy.allocate_rows(rank, view->shape + kRank - rank, copy_elements(view->dtype),
                                           dtype_, *this, error);
    if (status == FA3_OK) status = move_to(copy, error);
    return status == FA3_OK ? this->view(storage, view, error) : status;
}

StableIValue TorchTensor::release() {
    const StableIValue value = reinterpret_cast<StableIValue>(handle_);
    handle_ = nullptr;
    return value;
}

void append_device(Text& text, const TorchTensor& tensor) {
    if (tensor.device_type() == aoti_torch_device_type_cpu()) return text.append("cpu");
    if (tensor.device_type() == aoti_torch_device_type_cuda())
        return text.append("cuda:%d", tensor.device_index());
    text.append("number %d of torch's device types", tensor.device_type());
}

}  // namespace fa3
