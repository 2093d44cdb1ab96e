#include "variant.h"

#include <string.h>

namespace fa3 {
namespace {

// Cubins are made for one architecture with its own instructions (sm_90a), so the match is exact.
bool runs_on(const Kernel& kernel, const Device& device) {
    return kernel.sm == static_cast<uint32_t>(device.sm);
}

bool serves(const Kernel& kernel, const Wanted& wanted) {
    return kernel.dtype == static_cast<uint32_t>(wanted.dtype) && kernel.head_dim == wanted.head_dim &&
           kernel.head_dim_v == wanted.head_dim_v && strcmp(kernel.mask, wanted.mask) == 0 &&
           strcmp(kernel.op, wanted.op) == 0;
}

void append_names(Text& text, const Pack& pack) {
    if (pack.count == 0) text.append("no kernel");
    for (uint32_t i = 0; i < pack.count; ++i) text.append("%s%s", i == 0 ? "" : ", ", pack.kernels[i].name);
}

}  // namespace

fa3_status check_device(const Pack& pack, const Device& device, Error error) {
    for (uint32_t i = 0; i < pack.count; ++i) {
        if (runs_on(pack.kernels[i], device)) return FA3_OK;
    }
    Text names;
    append_names(names, pack);
    return error.fail(FA3_UNSUPPORTED, "device %d (%s, sm_%d) has no kernel; this build holds %s",
                      device.ordinal, device.name, device.sm, names.data);
}

fa3_status choose_kernel(const Pack& pack, const Device& device, const Wanted& wanted, const Kernel** kernel,
                         Error error) {
    for (uint32_t i = 0; i < pack.count; ++i) {
        *kernel = &pack.kernels[i];
        if (runs_on(**kernel, device) && serves(**kernel, wanted)) return FA3_OK;
    }
    if (fa3_status status = check_device(pack, device, error); status != FA3_OK) return status;
    Text names;
    append_names(names, pack);
    return error.fail(
        FA3_UNSUPPORTED,
        "no %s kernel for %s, head_dim %lld, head_dim of v %lld, mask %s on sm_%d; this build holds %s",
        wanted.op, wanted.dtype == FA3_FP16 ? "fp16" : "bf16", shown(wanted.head_dim),
        shown(wanted.head_dim_v), wanted.mask, device.sm, names.data);
}

}  // namespace fa3
