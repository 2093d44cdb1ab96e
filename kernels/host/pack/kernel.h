// One kernel of the pack: its record in the file, and what the choice among kernels looks at.
#pragma once

#include <stdint.h>

namespace fa3 {

// What a kernel's bytes are, in the order in which they are preferred.
enum class Code : uint8_t {
    kExact,     // a cubin for exactly this SM, with that SM's own instructions (sm_90a)
    kPortable,  // a cubin for this SM and later ones of the same major number
    kPtx,       // for this SM and all later ones; the driver compiles it
};
constexpr uint32_t kCodes = 3;

enum class Op : uint8_t { kFwd, kCombine, kOther };
enum class Mask : uint8_t { kFull, kCausal, kLocal };
constexpr uint32_t kMasks = 3;
constexpr uint32_t kDtypes = 3;

// As the pack has them; kernels of other ops are counted only, and "any" serves every mask.
constexpr const char* kOpNames[] = {"fwd", "combine", "other"};
constexpr const char* kMaskNames[] = {"full", "causal", "local"};
constexpr char kAnyMask[] = "any";

inline const char* op_name(Op op) { return kOpNames[static_cast<int>(op)]; }
inline const char* mask_name(Mask mask) { return kMaskNames[static_cast<int>(mask)]; }

// A record of the table, as it lies in the file.
struct Kernel {
    char name[64];  // also the symbol in the image
    char op[16];
    char mask[16];
    char toolkit[16];
    uint32_t sm;        // 90 for sm_90a
    uint32_t code;      // Code
    uint32_t dtype;     // fa3_dtype
    uint32_t head_dim;  // 0 when any is the same to it
    uint32_t head_dim_v;
    uint32_t tile_m;
    uint32_t tile_n;
    uint32_t threads;
    uint32_t smem_bytes;
    uint32_t cluster;
    uint32_t dynamic;     // 1 when the kernel draws its tiles from a TileQueue; 0: a block a tile
    uint32_t box_rows_q;  // of the boxes of its tensor maps; 0 when the kernel computes addresses itself
    uint32_t box_rows_kv;
    uint32_t box_rows_out;
    uint32_t blocks_per_sm;
    uint32_t min_seqlen_q;  // serves query sequences of at least this length
    uint32_t value_slices;  // tiles that share a row's head_dim_v columns
    uint32_t packs_gqa;     // 1 when query heads that share a key head can share a tile
    uint32_t reserved[2];
    uint64_t image_offset;  // a cubin, or PTX with its final NUL
    uint64_t image_size;
    uint64_t image_digest;  // CRC-32
    char padding[40];

    uint32_t slice_columns() const { return head_dim_v / value_slices; }
    bool uses_tensor_maps() const { return box_rows_q != 0; }
};
static_assert(sizeof(Kernel) == 256);

// False when a field has a value that no kernel can have.
bool is_sound(const Kernel& kernel, uint64_t file_size);

// A bit for each thing that a kernel may be asked to do.
constexpr uint32_t service(Op op, uint32_t dtype, Mask mask) {
    return 1u << ((static_cast<uint32_t>(op) * kDtypes + dtype) * kMasks + static_cast<uint32_t>(mask));
}

// What every call compares, of every kernel: kept apart from the records, so that it is little memory.
struct KernelKey {
    uint32_t services;
    uint32_t smem_bytes;
    uint32_t min_seqlen_q;
    uint16_t sm;
    uint16_t head_dim;
    uint16_t head_dim_v;
    uint16_t slice_columns;
    Code code;
    Op op;
};

KernelKey key_of(const Kernel& kernel);

}  // namespace fa3
