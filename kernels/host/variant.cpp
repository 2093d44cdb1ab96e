#include "variant.h"

#include <string.h>

namespace fa3 {
namespace {

// Cubins are made for one architecture with its own instructions (sm_90a), so the match is exact.
bool runs_on(const Kernel& kernel, const Device& device) {
    return kernel.sm == static_cast<uint32_t>(device.sm);
}

bool covers(const Kernel& kernel, const Wanted& wanted) {
    return kernel.dtype == static_cast<uint32_t>(wanted.dtype) && kernel.head_dim >= wanted.head_dim &&
           kernel.head_dim_v >= wanted.head_dim_v && kernel.min_seqlen_q <= wanted.seqlen_q;
}

bool does(const Kernel& kernel, const Wanted& wanted) {
    return strcmp(kernel.mask, wanted.mask) == 0 && strcmp(kernel.op, wanted.op) == 0;
}

// Less work: fewer columns, of as many those with the smaller head_dim; and made for longer sequences.
bool is_better(const Kernel& kernel, const Kernel& other) {
    const uint32_t columns = kernel.head_dim + kernel.head_dim_v;
    const uint32_t other_columns = other.head_dim + other.head_dim_v;
    if (columns != other_columns) return columns < other_columns;
    if (kernel.head_dim != other.head_dim) return kernel.head_dim < other.head_dim;
    return kernel.min_seqlen_q > other.min_seqlen_q;
}

void append_names(Text& text, const Pack& pack) {
    if (pack.count == 0) text.append("no kernel");
    for (uint32_t i = 0; i < pack.count; ++i) text.append("%s%s", i == 0 ? "" : ", ", pack.kernels[i].name);
}

// The head dimensions of the kernels that would serve any, as "64/64, 192/128".
void append_head_dims(Text& text, const Pack& pack, const Device& device, const Wanted& wanted) {
    const Wanted any = {wanted.op, wanted.mask, wanted.dtype, 0, 0, 0};
    for (uint32_t i = 0; i < pack.count; ++i) {
        const Kernel& kernel = pack.kernels[i];
        if (!runs_on(kernel, device) || !covers(kernel, any) || !does(kernel, any)) continue;
        text.append("%s%u/%u", text.length == 0 ? "" : ", ", kernel.head_dim, kernel.head_dim_v);
    }
    if (text.length == 0) text.append("none");
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
    *kernel = nullptr;
    for (uint32_t i = 0; i < pack.count; ++i) {
        const Kernel& candidate = pack.kernels[i];
        if (!runs_on(candidate, device) || !covers(candidate, wanted)) continue;
        // Names last, and only of the best so far: every call looks at all kernels.
        if (*kernel != nullptr && !is_better(candidate, **kernel)) continue;
        if (does(candidate, wanted)) *kernel = &candidate;
    }
    if (*kernel != nullptr) return FA3_OK;
    if (fa3_status status = check_device(pack, device, error); status != FA3_OK) return status;
    const char* dtype = wanted.dtype == FA3_FP16 ? "fp16" : "bf16";
    Text head_dims;
    append_head_dims(head_dims, pack, device, wanted);
    return error.fail(
        FA3_UNSUPPORTED,
        "no %s kernel for %s, head_dim %lld, head_dim of v %lld, mask %s on sm_%d; those of this "
        "build for %s and this mask have head_dim/head_dim of v up to: %s",
        wanted.op, dtype, shown(wanted.head_dim), shown(wanted.head_dim_v), wanted.mask, device.sm, dtype,
        head_dims.data);
}

}  // namespace fa3
