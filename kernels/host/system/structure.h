// Structures of the C ABI, which older and newer callers know in other sizes.
#pragma once

#include <stdint.h>
#include <string.h>

#include "system/error.h"

namespace fa3 {

constexpr uint32_t kMaxStructSize = 1 << 16;  // a larger size is not one

template <typename Structure>
fa3_status check_struct_size(const Structure* given, const char* argument, const char* type, Error error) {
    if (given == nullptr) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s is null; it should point to %s", argument, type);
    }
    if (sizeof(given->struct_size) < given->struct_size && given->struct_size <= kMaxStructSize)
        return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT, "%s.struct_size is %u; it should be the size of %s, here %zu",
                      argument, given->struct_size, type, sizeof(Structure));
}

// Copies the arguments of a caller. Fields that the caller does not know become 0; fields that this library
// does not know must be 0.
template <typename Structure>
fa3_status read_struct(const Structure* given, const char* type, Structure* copy, Error error) {
    if (fa3_status status = check_struct_size(given, "args", type, error); status != FA3_OK) return status;
    const size_t size = given->struct_size;
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(given);
    memset(copy, 0, sizeof(*copy));
    memcpy(copy, given, size < sizeof(*copy) ? size : sizeof(*copy));
    for (size_t i = sizeof(*copy); i < size; ++i) {
        if (bytes[i] == 0) continue;
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "args has a value at byte %zu of %s, which flash-attn3 %s knows up to byte %zu; update "
            "flash-attn3",
            i, type, FA3_VERSION, sizeof(*copy));
    }
    return FA3_OK;
}

// Fills the structure of a caller as far as both sides know it, and the rest with 0. The caller's struct_size
// stays.
template <typename Structure>
fa3_status write_struct(const Structure& value, const char* argument, const char* type, Structure* given,
                        Error error) {
    if (fa3_status status = check_struct_size(given, argument, type, error); status != FA3_OK) return status;
    const uint32_t size = given->struct_size;
    memset(given, 0, size);
    memcpy(given, &value, size < sizeof(value) ? size : sizeof(value));
    given->struct_size = size;
    return FA3_OK;
}

}  // namespace fa3
