#include "torch/checks.h"

#include <atomic>

#include "system/library.h"
#include "torch/dtypes.h"

namespace fa3 {

fa3_status check_dtypes(const TorchTensor& q, std::initializer_list<const TorchTensor*> others, Error error) {
    if (q.dtype() != aoti_torch_dtype_float16() && q.dtype() != aoti_torch_dtype_bfloat16()) {
        Text got;
        append_dtype(got, q.dtype());
        return error.fail(FA3_INVALID_ARGUMENT, "q has dtype %s; it should be float16 or bfloat16", got.data);
    }
    for (const TorchTensor* tensor : others) {
        if (tensor->dtype() == q.dtype()) continue;
        Text got;
        Text wanted;
        append_dtype(got, tensor->dtype());
        append_dtype(wanted, q.dtype());
        return error.fail(FA3_INVALID_ARGUMENT, "%s has dtype %s; it should be %s, as in q",
                          tensor->argument(), got.data, wanted.data);
    }
    return FA3_OK;
}

fa3_status check_dtype(const TorchTensor& tensor, int32_t torch_dtype, Error error) {
    if (tensor.dtype() == torch_dtype) return FA3_OK;
    Text got;
    Text wanted;
    append_dtype(got, tensor.dtype());
    append_dtype(wanted, torch_dtype);
    return error.fail(FA3_INVALID_ARGUMENT, "%s has dtype %s; it should be %s", tensor.argument(), got.data,
                      wanted.data);
}

fa3_status check_devices(const TorchTensor& first, std::initializer_list<const TorchTensor*> others,
                         Error error) {
    for (const TorchTensor* tensor : others) {
        if (!tensor->is_present() || tensor->is_on_device_of(first)) continue;
        Text device;
        Text first_device;
        append_device(device, *tensor);
        append_device(first_device, first);
        return error.fail(FA3_INVALID_ARGUMENT, "%s is on %s; it should be on %s, as %s is",
                          tensor->argument(), device.data, first_device.data, first.argument());
    }
    if (first.device_type() == aoti_torch_device_type_cuda()) return FA3_OK;
    Text device;
    append_device(device, first);
    return error.fail(FA3_INVALID_ARGUMENT, "%s is on %s, but this operator needs CUDA tensors",
                      first.argument(), device.data);
}

// The function is in libtorch_cuda, which a torch for CPUs lacks; so it is looked up, not linked.
fa3_status current_stream(int32_t device, void** stream, Error error) {
    using GetStream = AOTITorchError (*)(int32_t device, void** stream);
    static std::atomic<GetStream> found;
    GetStream get_stream = found.load(std::memory_order_relaxed);
    if (get_stream == nullptr) {
        void* library = find_loaded_library("libtorch_cuda.so");
        if (library != nullptr) {
            get_stream =
                reinterpret_cast<GetStream>(find_symbol(library, "aoti_torch_get_current_cuda_stream"));
        }
        if (get_stream == nullptr) {
            return error.fail(FA3_NO_DRIVER,
                              "this torch has no libtorch_cuda.so with a current stream; install a "
                              "torch built for CUDA");
        }
        found.store(get_stream, std::memory_order_relaxed);
    }
    if (get_stream(device, stream) == 0) return FA3_OK;
    return error.fail(FA3_DRIVER_ERROR, "torch has no current stream on cuda:%d", device);
}

}  // namespace fa3
