// The kernel pack: a table of kernels followed by their images, in one little-endian file.
#pragma once

#include <stdint.h>
#include <time.h>

#include <atomic>

#include "system/device.h"
#include "system/error.h"
#include "pack/kernel.h"

namespace fa3 {

struct Pack {
    char* path;
    timespec modified;
    uint32_t count;
    Kernel* kernels;
    KernelKey* keys;                      // of the kernels, in their order
    std::atomic<cuda::Function>* loaded;  // [kMaxDevices][count], null until a kernel's first use there
    Pack* next;                           // that was opened before this one
};

// The pack in use: the last one named, else the one beside this library. A pack is never freed, because
// kernels loaded from it may be running.
fa3_status get_pack(const Pack** pack, Error error);

// Opens and checks the pack at `path`; on failure the pack in use stays. One that was in use before and is
// unchanged since comes back with its loaded kernels.
fa3_status set_pack(const char* path, Error error);

// Reads a kernel's cubin or PTX and checks its digest. The caller frees `*image`.
fa3_status read_image(const Pack& pack, const Kernel& kernel, void** image, Error error);

}  // namespace fa3
