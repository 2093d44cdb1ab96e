// The kernel pack: a table of kernels followed by their images, in one little-endian file.
#pragma once

#include <stdint.h>

#include <atomic>

#include "pack/record.h"
#include "system/device.h"
#include "system/error.h"

namespace fa3 {

struct Pack {
    char* path;
    int64_t modified;  // nanoseconds
    uint32_t count;
    Record* records;
    Key* keys;                            // of the records, in their order
    std::atomic<cuda::Function>* loaded;  // [kMaxDevices][count], null until the first use of the kernel
    Pack* next;                           // opened before this one
};

// The pack in use: the last one of set_pack, else the file beside this library. A pack is never freed,
// because kernels loaded from it may be running.
fa3_status get_pack(const Pack** pack, Error error);

// Opens and checks the pack at `path`; on failure the pack in use stays. A pack that was in use before keeps
// its loaded kernels if its file is unchanged.
fa3_status set_pack(const char* path, Error error);

// Reads a kernel's cubin or PTX and checks its digest. The caller frees `*image`.
fa3_status read_image(const Pack& pack, const Record& record, void** image, Error error);

}  // namespace fa3
