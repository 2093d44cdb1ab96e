#include "pack/kernel.h"

#include <string.h>

#include <initializer_list>

#include "flash_attn3.h"

namespace fa3 {
namespace {

constexpr uint64_t kImageAlignment = 64;

template <size_t size>
bool is_text(const char (&field)[size]) {
    return field[0] != '\0' && memchr(field, '\0', size) != nullptr;
}

bool between(uint32_t value, uint32_t low, uint32_t high) { return low <= value && value <= high; }

// All of its tensor maps, or none.
bool has_sound_boxes(const Kernel& kernel) {
    const uint32_t least = kernel.uses_tensor_maps() ? 1 : 0;
    const uint32_t most = kernel.uses_tensor_maps() ? 256 : 0;
    return between(kernel.box_rows_q, least, most) && between(kernel.box_rows_kv, least, most) &&
           between(kernel.box_rows_out, least, most);
}

Op op_of(const Kernel& kernel) {
    for (Op op : {Op::kFwd, Op::kCombine}) {
        if (strcmp(kernel.op, op_name(op)) == 0) return op;
    }
    return Op::kOther;
}

uint32_t services_of(const Kernel& kernel, Op op) {
    uint32_t services = 0;
    for (Mask mask : {Mask::kFull, Mask::kCausal, Mask::kLocal}) {
        const bool serves = strcmp(kernel.mask, mask_name(mask)) == 0 || strcmp(kernel.mask, kAnyMask) == 0;
        if (serves) services |= service(op, kernel.dtype, mask);
    }
    return services;
}

}  // namespace

bool is_sound(const Kernel& kernel, uint64_t file_size) {
    return is_text(kernel.name) && is_text(kernel.op) && is_text(kernel.mask) && is_text(kernel.toolkit) &&
           between(kernel.sm, 10, 9999) && kernel.code < kCodes && kernel.dtype <= FA3_FP32 &&
           between(kernel.head_dim, 0, 1024) && between(kernel.head_dim_v, 0, 1024) &&
           between(kernel.tile_m, 1, 65536) && between(kernel.threads, 32, 1024) &&
           between(kernel.smem_bytes, 0, 1 << 20) && between(kernel.cluster, 1, 16) && kernel.dynamic <= 1 &&
           has_sound_boxes(kernel) && between(kernel.blocks_per_sm, 1, 32) &&
           between(kernel.value_slices, 1, 16) && kernel.head_dim_v % kernel.value_slices == 0 &&
           kernel.packs_gqa <= 1 && kernel.image_offset % kImageAlignment == 0 && kernel.image_size > 0 &&
           kernel.image_offset <= file_size && kernel.image_size <= file_size - kernel.image_offset;
}

KernelKey key_of(const Kernel& kernel) {
    KernelKey key;
    key.op = op_of(kernel);
    key.services = services_of(kernel, key.op);
    key.smem_bytes = kernel.smem_bytes;
    key.min_seqlen_q = kernel.min_seqlen_q;
    key.sm = static_cast<uint16_t>(kernel.sm);
    key.head_dim = static_cast<uint16_t>(kernel.head_dim);
    key.head_dim_v = static_cast<uint16_t>(kernel.head_dim_v);
    key.slice_columns = static_cast<uint16_t>(kernel.slice_columns());
    key.code = static_cast<Code>(kernel.code);
    return key;
}

}  // namespace fa3
