// Errors: a status, and one sentence in the buffer of the caller.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "flash_attn3.h"

namespace fa3 {

struct Error {
    char* text;  // may be null when size is 0
    size_t size;

    // Writes the sentence, cut at `size`, and returns `status`.
    __attribute__((format(printf, 3, 4))) fa3_status fail(fa3_status status, const char* format, ...) const;
};

// For %lld, whose argument is not int64_t on every platform.
inline long long shown(int64_t value) { return value; }

// A sentence in pieces, cut at the size of the buffer.
struct Text {
    char data[2048];
    size_t length = 0;

    Text() { data[0] = '\0'; }

    __attribute__((format(printf, 2, 3))) void append(const char* format, ...);
};

}  // namespace fa3
