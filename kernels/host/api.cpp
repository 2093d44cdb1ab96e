// The functions of flash_attn3.h.
#include "attention/layout.h"
#include "flash_attn3.h"
#include "pack/choose.h"
#include "pack/kernel_info.h"
#include "pack/pack.h"
#include "system/device.h"
#include "system/driver.h"

const char* fa3_version(void) { return FA3_VERSION; }

fa3_status fa3_set_pack(const char* path, char* error, size_t error_size) {
    return fa3::set_pack(path, {error, error_size});
}

fa3_status fa3_kernel_count(int32_t* count, char* error, size_t error_size) {
    const fa3::Pack* pack = nullptr;
    if (fa3_status status = fa3::get_pack(&pack, {error, error_size}); status != FA3_OK) return status;
    *count = static_cast<int32_t>(pack->count);
    return FA3_OK;
}

fa3_status fa3_kernel_at(int32_t index, fa3_kernel_info* info, char* error, size_t error_size) {
    const fa3::Error sink{error, error_size};
    const fa3::Pack* pack = nullptr;
    if (fa3_status status = fa3::get_pack(&pack, sink); status != FA3_OK) return status;
    if (index < 0 || static_cast<uint32_t>(index) >= pack->count) {
        return sink.fail(FA3_INVALID_ARGUMENT, "index is %d; the pack holds %u kernels, counted from 0",
                         index, pack->count);
    }
    return fa3::write_kernel_info(&pack->records[index], info, sink);
}

fa3_status fa3_allow_kernels(uint32_t codes, int32_t seqlen_q, char* error, size_t error_size) {
    return fa3::allow_kernels(codes, seqlen_q, {error, error_size});
}

fa3_status fa3_driver(int32_t* version, int32_t* devices, char* error, size_t error_size) {
    const fa3::cuda::Driver* driver = nullptr;
    if (fa3_status status = fa3::cuda::get_driver(&driver, {error, error_size}); status != FA3_OK)
        return status;
    *version = driver->version;
    *devices = driver->device_count;
    return FA3_OK;
}

fa3_status fa3_device_supported(int32_t device, const char* op, char* error, size_t error_size) {
    const fa3::Error sink{error, error_size};
    const fa3::cuda::Driver* driver = nullptr;
    fa3::Device* found = nullptr;
    const fa3::Pack* pack = nullptr;
    fa3_status status = fa3::cuda::get_driver(&driver, sink);
    if (status == FA3_OK) status = fa3::get_device(*driver, device, &found, sink);
    if (status == FA3_OK) status = fa3::get_pack(&pack, sink);
    return status == FA3_OK ? fa3::check_device(*pack, *found, op, sink) : status;
}

fa3_status fa3_check_layout(const fa3_tensor* tensor, const char* argument, char* error, size_t error_size) {
    return fa3::check_layout(*tensor, fa3::Storage::kDense, argument, {error, error_size});
}
