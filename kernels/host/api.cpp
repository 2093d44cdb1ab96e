// The functions of flash_attn3.h.
#include <string.h>

#include "ops/combine.h"
#include "system/device.h"
#include "system/driver.h"
#include "flash_attn3.h"
#include "ops/fwd.h"
#include "attention/layout.h"
#include "pack/pack.h"
#include "pack/choose.h"

namespace {

template <typename Args>
fa3_status check_struct(const Args* args, const char* type, fa3::Error error) {
    if (args == nullptr) return error.fail(FA3_INVALID_ARGUMENT, "args is null; it should point to %s", type);
    if (args->struct_size == sizeof(Args)) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "args.struct_size is %u; flash-attn3 %s takes %zu",
                      args->struct_size, FA3_VERSION, sizeof(Args));
}

}  // namespace

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
    const fa3::Kernel& kernel = pack->kernels[index];
    memcpy(info->name, kernel.name, sizeof(info->name));
    memcpy(info->op, kernel.op, sizeof(info->op));
    memcpy(info->mask, kernel.mask, sizeof(info->mask));
    memcpy(info->toolkit, kernel.toolkit, sizeof(info->toolkit));
    info->sm = static_cast<int32_t>(kernel.sm);
    info->dtype = static_cast<int32_t>(kernel.dtype);
    info->head_dim = static_cast<int32_t>(kernel.head_dim);
    info->head_dim_v = static_cast<int32_t>(kernel.head_dim_v);
    info->code = static_cast<int32_t>(kernel.code);
    info->min_seqlen_q = static_cast<int32_t>(kernel.min_seqlen_q);
    return FA3_OK;
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

fa3_status fa3_device_supported(int32_t device, char* error, size_t error_size) {
    const fa3::Error sink{error, error_size};
    const fa3::cuda::Driver* driver = nullptr;
    const fa3::Pack* pack = nullptr;
    fa3::Device* described = nullptr;
    fa3_status status = fa3::cuda::get_driver(&driver, sink);
    if (status == FA3_OK) status = fa3::get_device(*driver, device, &described, sink);
    if (status == FA3_OK) status = fa3::get_pack(&pack, sink);
    return status == FA3_OK ? fa3::check_device(*pack, *described, sink) : status;
}

fa3_status fa3_check_layout(const fa3_tensor* tensor, const char* argument, char* error, size_t error_size) {
    return fa3::check_layout(*tensor, fa3::Storage::kDense, argument, {error, error_size});
}

fa3_status fa3_fwd(const fa3_fwd_args* args, char* error, size_t error_size) {
    const fa3::Error sink{error, error_size};
    const fa3_status status = check_struct(args, "fa3_fwd_args", sink);
    return status == FA3_OK ? fa3::fwd(*args, sink) : status;
}

fa3_status fa3_combine(const fa3_combine_args* args, char* error, size_t error_size) {
    const fa3::Error sink{error, error_size};
    const fa3_status status = check_struct(args, "fa3_combine_args", sink);
    return status == FA3_OK ? fa3::combine(*args, sink) : status;
}
