#include "system/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

namespace fa3 {

void* open_library(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }

void* find_loaded_library(const char* name) { return dlopen(name, RTLD_LAZY | RTLD_NOLOAD); }

const char* library_error() { return dlerror(); }

void* find_symbol(void* library, const char* name) { return dlsym(library, name); }

bool path_beside_library(const char* file_name, char* path, size_t size) {
    Dl_info library;
    if (dladdr(reinterpret_cast<void*>(path_beside_library), &library) == 0) return false;
    const char* slash = strrchr(library.dli_fname, '/');
    const int folder = slash == nullptr ? 0 : static_cast<int>(slash - library.dli_fname) + 1;
    const int length = snprintf(path, size, "%.*s%s", folder, library.dli_fname, file_name);
    return 0 < length && static_cast<size_t>(length) < size;
}

}  // namespace fa3
