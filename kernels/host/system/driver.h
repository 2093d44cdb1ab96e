// The driver functions that this library calls, loaded at run time, so that neither building nor loading it
// needs a CUDA toolkit or a GPU. Names and layouts follow the CUDA driver API.
#pragma once

#include <stdint.h>

#include "params/tensor_map.h"
#include "system/error.h"

namespace fa3::cuda {

using Result = int;
using DeviceHandle = int;
using DevicePointer = unsigned long long;
using Context = struct ContextOpaque*;
using Module = struct ModuleOpaque*;
using Function = struct FunctionOpaque*;
using Stream = struct StreamOpaque*;

constexpr Result kSuccess = 0;
constexpr Result kErrorNotInitialized = 3;
constexpr Result kErrorNoDevice = 100;
constexpr Result kErrorUnsupportedPtx = 222;

constexpr int kAttributeMultiprocessorCount = 16;
constexpr int kAttributeL2CacheBytes = 38;
constexpr int kAttributeCapabilityMajor = 75;
constexpr int kAttributeCapabilityMinor = 76;
constexpr int kAttributeSharedBytesPerBlock = 97;  // what a kernel can opt in to
constexpr int kFunctionMaxDynamicSharedBytes = 8;
constexpr int kCaptureStatusNone = 0;
constexpr int kCaptureModeRelaxed = 2;
constexpr unsigned kStreamNonBlocking = 1;

constexpr int kInterleaveNone = 0;
constexpr int kSwizzle128B = 3;
constexpr int kL2Promotion256B = 3;
constexpr int kFillZeros = 0;

struct LaunchAttribute {
    // The launch may begin before the previous one on its stream has ended; the kernel waits for it itself.
    static constexpr unsigned kProgrammaticStreamSerialization = 6;
    unsigned id;
    char padding[4];
    union {
        int programmatic_stream_serialization_allowed;
        char bytes[64];
    };
};

struct LaunchConfig {
    unsigned grid_x, grid_y, grid_z;
    unsigned block_x, block_y, block_z;
    unsigned shared_bytes;
    Stream stream;
    LaunchAttribute* attributes;
    unsigned attribute_count;
};

struct Driver {
    int version;  // as CUDA reports it: 13000 for 13.0
    int device_count;

    Result (*init)(unsigned flags);
    Result (*driver_get_version)(int* version);
    Result (*get_error_name)(Result result, const char** name);
    Result (*get_error_string)(Result result, const char** text);
    Result (*device_get)(DeviceHandle* device, int ordinal);
    Result (*device_get_count)(int* count);
    Result (*device_get_name)(char* name, int size, DeviceHandle device);
    Result (*device_get_attribute)(int* value, int attribute, DeviceHandle device);
    Result (*primary_context_retain)(Context* context, DeviceHandle device);
    Result (*context_get_current)(Context* context);
    Result (*context_push)(Context context);
    Result (*context_pop)(Context* context);
    Result (*module_load_data)(Module* module, const void* image);
    Result (*module_unload)(Module module);
    Result (*module_get_function)(Function* function, Module module, const char* name);
    Result (*function_set_attribute)(Function function, int attribute, int value);
    Result (*memory_allocate)(DevicePointer* pointer, size_t bytes);
    Result (*memory_free)(DevicePointer pointer);
    Result (*memory_set_async)(DevicePointer pointer, unsigned char value, size_t bytes, Stream stream);
    Result (*stream_create)(Stream* stream, unsigned flags);
    Result (*stream_synchronize)(Stream stream);
    Result (*stream_destroy)(Stream stream);
    Result (*stream_get_id)(Stream stream, unsigned long long* id);
    Result (*stream_is_capturing)(Stream stream, int* status);
    Result (*exchange_capture_mode)(int* mode);
    Result (*tensor_map_encode_tiled)(TensorMap* map, int type, uint32_t rank, void* address,
                                      const uint64_t* extents, const uint64_t* byte_strides,
                                      const uint32_t* box, const uint32_t* element_strides, int interleave,
                                      int swizzle, int l2_promotion, int fill);
    Result (*launch)(const LaunchConfig* config, Function function, void** parameters, void** extra);

    // Writes the error of a failed driver call; returns FA3_DRIVER_ERROR.
    fa3_status fail(Result result, const char* call, Error error) const;
};

// The driver of this process, loaded and initialised by the first call that succeeds.
fa3_status get_driver(const Driver** driver, Error error);

// During its lifetime this thread may allocate and load modules while a stream is being captured.
class CaptureRelaxed {
  public:
    explicit CaptureRelaxed(const Driver& driver) : driver_(driver) { driver_.exchange_capture_mode(&mode_); }
    ~CaptureRelaxed() { driver_.exchange_capture_mode(&mode_); }
    CaptureRelaxed(const CaptureRelaxed&) = delete;
    CaptureRelaxed& operator=(const CaptureRelaxed&) = delete;

  private:
    const Driver& driver_;
    int mode_ = kCaptureModeRelaxed;
};

}  // namespace fa3::cuda
