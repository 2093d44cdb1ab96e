#include "system/error.h"

#include <stdarg.h>
#include <stdio.h>

namespace fa3 {

fa3_status Error::fail(fa3_status status, const char* format, ...) const {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, size, format, arguments);
    va_end(arguments);
    return status;
}

void Text::append(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int wanted = vsnprintf(data + length, sizeof(data) - length, format, arguments);
    va_end(arguments);
    if (wanted < 0) return;
    const size_t room = sizeof(data) - 1 - length;
    length += static_cast<size_t>(wanted) < room ? static_cast<size_t>(wanted) : room;
}

}  // namespace fa3
