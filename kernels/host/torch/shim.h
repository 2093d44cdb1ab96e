// The part of LibTorch's stable C ABI (torch 2.9 and newer) that the operator library uses, declared here so
// that building it needs no torch. tests/kernels/host/test_host_torch.py compares it with the headers of an
// installed torch.
#pragma once

#include <stdint.h>

struct AtenTensorOpaque;
class TorchLibraryOpaque;

using AtenTensorHandle = AtenTensorOpaque*;
using TorchLibraryHandle = TorchLibraryOpaque*;
using AOTITorchError = int32_t;  // 0: success
using StableIValue = uint64_t;   // an operator's argument or result: a handle, or a value in its low bytes

extern "C" {

int32_t aoti_torch_device_type_cpu();
int32_t aoti_torch_device_type_cuda();

int32_t aoti_torch_dtype_bfloat16();
int32_t aoti_torch_dtype_bool();
int32_t aoti_torch_dtype_float16();
int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float64();
int32_t aoti_torch_dtype_float8_e4m3fn();
int32_t aoti_torch_dtype_float8_e5m2();
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_dtype_int8();
int32_t aoti_torch_dtype_uint8();

AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** data);
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* rank);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** sizes);
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** strides);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* dtype);
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle tensor, int32_t* device_type);
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle tensor, int32_t* device_index);

AOTITorchError aoti_torch_empty_strided(int64_t rank, const int64_t* sizes, const int64_t* strides,
                                        int32_t dtype, int32_t device_type, int32_t device_index,
                                        AtenTensorHandle* tensor);
// `offset` counts from where `self` begins.
AOTITorchError aoti_torch__reinterpret_tensor(AtenTensorHandle self, int64_t rank, const int64_t* sizes,
                                              const int64_t* strides, int64_t offset,
                                              AtenTensorHandle* tensor);
AOTITorchError aoti_torch_copy_(AtenTensorHandle self, AtenTensorHandle source, int32_t non_blocking);
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor);

AOTITorchError aoti_torch_library_init_fragment(const char* name, const char* file, uint32_t line,
                                                TorchLibraryHandle* library);
AOTITorchError aoti_torch_library_init_impl(const char* name, const char* dispatch_key, const char* file,
                                            uint32_t line, TorchLibraryHandle* library);
AOTITorchError aoti_torch_library_def(TorchLibraryHandle library, const char* schema);
AOTITorchError aoti_torch_library_impl(TorchLibraryHandle library, const char* name,
                                       void (*function)(StableIValue* stack, uint64_t inputs,
                                                        uint64_t outputs));

// Throws torch's own exception, which Python sees as a RuntimeError, when `condition` is false.
void aoti_torch_check(bool condition, const char* function, const char* file, uint32_t line,
                      const char* message);

// Frees the box of an optional argument; null in a torch older than 2.13, which makes it with `new`.
__attribute__((weak)) AOTITorchError torch_delete_stable_ivalue(StableIValue* value);

// The message of the shim call that failed last on this thread; null in a torch older than 2.13.
__attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

}  // extern "C"
