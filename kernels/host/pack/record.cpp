#include "pack/record.h"

#include "attention/dtype.h"

namespace fa3 {
namespace {

constexpr uint64_t kImageAlignment = 64;

template <size_t size>
bool is_text(const char (&field)[size]) {
    return field[0] != '\0' && memchr(field, '\0', size) != nullptr;
}

// NUL-padded to its end, as comparisons need it.
bool is_op(const OpName& op) {
    if (!is_text(op.text)) return false;
    for (size_t i = strlen(op.text); i < sizeof(op.text); ++i) {
        if (op.text[i] != '\0') return false;
    }
    return true;
}

bool between(uint32_t value, uint32_t low, uint32_t high) { return low <= value && value <= high; }

bool is_dtype_field(uint32_t dtype) { return is_dtype(dtype) || dtype == kAnyDtype; }

// 0 for a name that is no class of masks.
uint8_t masks_of(const Record& record) {
    uint8_t masks = 0;
    for (uint32_t i = 0; i < kMasks; ++i) {
        if (strcmp(record.mask, kMaskNames[i]) == 0 || strcmp(record.mask, kAnyMask) == 0) {
            masks = static_cast<uint8_t>(masks | 1u << i);
        }
    }
    return masks;
}

bool is_padded(const Record& record) {
    if (record.tail_words > kTailWords) return false;
    for (uint32_t i = record.tail_words; i < kTailWords; ++i) {
        if (record.tail[i] != 0) return false;
    }
    return true;
}

}  // namespace

bool is_sound(const Record& record, uint64_t file_size) {
    return is_text(record.name) && is_op(record.op) && is_text(record.mask) && is_text(record.toolkit) &&
           masks_of(record) != 0 && between(record.sm, 10, 9999) && record.code < kCodes &&
           is_dtype_field(record.dtype_in) && is_dtype_field(record.dtype_out) &&
           between(record.head_dim, 0, 1024) && between(record.head_dim_v, 0, 1024) &&
           between(record.tile_m, 1, 65536) && between(record.threads, 32, 1024) &&
           between(record.smem_bytes, 0, 1 << 20) && between(record.blocks_per_sm, 1, 32) &&
           is_padded(record) && record.image_offset % kImageAlignment == 0 && record.image_size > 0 &&
           record.image_offset <= file_size && record.image_size <= file_size - record.image_offset;
}

Key key_of(const Record& record) {
    Key key;
    key.op = record.op;
    key.smem_bytes = record.smem_bytes;
    key.sm = static_cast<uint16_t>(record.sm);
    key.head_dim = static_cast<uint16_t>(record.head_dim);
    key.head_dim_v = static_cast<uint16_t>(record.head_dim_v);
    key.dtype_in = static_cast<uint8_t>(record.dtype_in);
    key.dtype_out = static_cast<uint8_t>(record.dtype_out);
    key.masks = masks_of(record);
    key.code = static_cast<Code>(record.code);
    return key;
}

}  // namespace fa3
