// Compiled, never run: driver.h says the same of the driver as cuda.h does.
#include <cuda.h>
#include <stddef.h>

#include <type_traits>

#include "attention/dtype.h"
#include "flash_attn3.h"
#include "system/driver.h"

namespace cuda = fa3::cuda;

template <typename Ours, typename Theirs>
constexpr bool kSamePassing = std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> && sizeof(Ours) == sizeof(Theirs);

template <typename Ours, typename Theirs>
constexpr bool kSameFunction = false;

template <typename OurResult, typename... Ours, typename TheirResult, typename... Theirs>
constexpr bool kSameFunction<OurResult (*)(Ours...), TheirResult (*)(Theirs...)> = [] {
    if constexpr (sizeof...(Ours) == sizeof...(Theirs)) return (kSamePassing<Ours, Theirs> && ...);
    return false;
}();

#define SAME(ours, theirs) static_assert(kSameFunction<decltype(cuda::Driver::ours), decltype(&theirs)>, #theirs)

SAME(init, cuInit);
SAME(driver_get_version, cuDriverGetVersion);
SAME(get_error_name, cuGetErrorName);
SAME(get_error_string, cuGetErrorString);
SAME(device_get, cuDeviceGet);
SAME(device_get_count, cuDeviceGetCount);
SAME(device_get_name, cuDeviceGetName);
SAME(device_get_attribute, cuDeviceGetAttribute);
SAME(primary_context_retain, cuDevicePrimaryCtxRetain);
SAME(context_get_current, cuCtxGetCurrent);
SAME(context_push, cuCtxPushCurrent);
SAME(context_pop, cuCtxPopCurrent);
SAME(module_load_data, cuModuleLoadData);
SAME(module_unload, cuModuleUnload);
SAME(module_get_function, cuModuleGetFunction);
SAME(function_set_attribute, cuFuncSetAttribute);
SAME(memory_allocate, cuMemAlloc);
SAME(memory_free, cuMemFree);
SAME(memory_set_async, cuMemsetD8Async);
SAME(stream_create, cuStreamCreate);
SAME(stream_synchronize, cuStreamSynchronize);
SAME(stream_destroy, cuStreamDestroy);
SAME(stream_get_id, cuStreamGetId);
SAME(stream_is_capturing, cuStreamIsCapturing);
SAME(exchange_capture_mode, cuThreadExchangeStreamCaptureMode);
SAME(tensor_map_encode_tiled, cuTensorMapEncodeTiled);
SAME(launch, cuLaunchKernelEx);

static_assert(cuda::kSuccess == CUDA_SUCCESS);
static_assert(cuda::kErrorNotInitialized == CUDA_ERROR_NOT_INITIALIZED);
static_assert(cuda::kErrorNoDevice == CUDA_ERROR_NO_DEVICE);
static_assert(cuda::kErrorUnsupportedPtx == CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
static_assert(cuda::kAttributeMultiprocessorCount == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
static_assert(cuda::kAttributeCapabilityMajor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(cuda::kAttributeCapabilityMinor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(cuda::kAttributeL2CacheBytes == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
static_assert(cuda::kAttributeSharedBytesPerBlock == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(cuda::kFunctionMaxDynamicSharedBytes == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(cuda::kCaptureStatusNone == CU_STREAM_CAPTURE_STATUS_NONE);
static_assert(cuda::kCaptureModeRelaxed == CU_STREAM_CAPTURE_MODE_RELAXED);
static_assert(cuda::kStreamNonBlocking == CU_STREAM_NON_BLOCKING);
static_assert(fa3::kDtypeInfos[FA3_FP16].tensor_map_type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16);
static_assert(fa3::kDtypeInfos[FA3_BF16].tensor_map_type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
static_assert(fa3::kDtypeInfos[FA3_FP32].tensor_map_type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32);
static_assert(cuda::kInterleaveNone == CU_TENSOR_MAP_INTERLEAVE_NONE);
static_assert(cuda::kSwizzle128B == CU_TENSOR_MAP_SWIZZLE_128B);
static_assert(cuda::kL2Promotion256B == CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
static_assert(cuda::kFillZeros == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
static_assert(cuda::LaunchAttribute::kProgrammaticStreamSerialization ==
              CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);

static_assert(sizeof(fa3::TensorMap) == sizeof(CUtensorMap));
static_assert(alignof(fa3::TensorMap) >= 64);  // what the driver asks for; CUDA 13 declares 128
static_assert(sizeof(cuda::LaunchAttribute) == sizeof(CUlaunchAttribute));
static_assert(offsetof(cuda::LaunchAttribute, programmatic_stream_serialization_allowed) ==
              offsetof(CUlaunchAttribute, value));
static_assert(sizeof(cuda::LaunchAttribute::programmatic_stream_serialization_allowed) ==
              sizeof(CUlaunchAttributeValue::programmaticStreamSerializationAllowed));
static_assert(sizeof(cuda::LaunchConfig) == sizeof(CUlaunchConfig));
static_assert(offsetof(cuda::LaunchConfig, block_x) == offsetof(CUlaunchConfig, blockDimX));
static_assert(offsetof(cuda::LaunchConfig, shared_bytes) == offsetof(CUlaunchConfig, sharedMemBytes));
static_assert(offsetof(cuda::LaunchConfig, stream) == offsetof(CUlaunchConfig, hStream));
static_assert(offsetof(cuda::LaunchConfig, attributes) == offsetof(CUlaunchConfig, attrs));
static_assert(offsetof(cuda::LaunchConfig, attribute_count) == offsetof(CUlaunchConfig, numAttrs));
