// The kernel pack: a table of kernels followed by their cubins, in one little-endian file.
#pragma once

#include <stdint.h>

#include <atomic>

#include "device.h"
#include "error.h"

namespace fa3 {

// One row of the table, as it lies in the file.
struct Kernel {
    char name[64];  // also the symbol in the cubin
    char op[16];
    char mask[16];
    char toolkit[16];
    uint32_t sm;     // 90 for sm_90a
    uint32_t dtype;  // fa3_dtype
    uint32_t head_dim;
    uint32_t head_dim_v;
    uint32_t tile_m;
    uint32_t tile_n;
    uint32_t threads;
    uint32_t smem_bytes;
    uint32_t cluster;
    uint32_t dynamic;  // 1 when the kernel draws its tiles from a TileQueue
    uint32_t box_rows_q;
    uint32_t box_rows_kv;
    uint32_t box_rows_out;
    uint32_t blocks_per_sm;
    uint32_t min_seqlen_q;  // serves query sequences of at least this length
    uint32_t reserved;
    uint64_t cubin_offset;
    uint64_t cubin_size;
    uint64_t cubin_digest;  // CRC-32
    char padding[56];
};
static_assert(sizeof(Kernel) == 256);

struct Pack {
    char* path;
    uint32_t count;
    Kernel* kernels;
    std::atomic<cuda::Function>* loaded;  // [kMaxDevices][count], null until a kernel's first use there
};

// The pack in use: the last one named, else the one beside this library. A pack is never freed, because
// kernels loaded from it may be running.
fa3_status get_pack(const Pack** pack, Error error);

// Opens and checks the pack at `path`; on failure the pack in use stays.
fa3_status set_pack(const char* path, Error error);

// Reads one cubin and checks its digest. The caller frees `*cubin`.
fa3_status read_cubin(const Pack& pack, const Kernel& kernel, void** cubin, Error error);

}  // namespace fa3
