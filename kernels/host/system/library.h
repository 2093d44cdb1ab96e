// Shared libraries of the operating system.
#pragma once

#include <stddef.h>

namespace fa3 {

// Opens a library by name; null when it is not found.
void* open_library(const char* name);

// A library that this process has loaded already; null when it has not.
void* find_loaded_library(const char* name);

// Why open_library failed last on this thread.
const char* library_error();

void* find_symbol(void* library, const char* name);

// Writes the path of a file in the folder of this library; false when the folder cannot be found.
bool path_beside_library(const char* file_name, char* path, size_t size);

}  // namespace fa3
