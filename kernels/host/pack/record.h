// One kernel of the pack: its record in the file, and the key that the choice among kernels compares.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "attention/mask_class.h"

namespace fa3 {

// Format of a kernel's image, in order of preference.
enum class Code : uint8_t {
    kExact,     // a cubin for one SM, with instructions of this SM alone (sm_90a)
    kPortable,  // a cubin for an SM and later ones of the same major number
    kPtx,       // for an SM and all later ones; the driver compiles it
};
constexpr uint32_t kCodes = 3;

// The name of an operator. Operators are compared by name, so a new one changes nothing here.
struct OpName {
    char text[16];  // NUL-padded

    constexpr OpName() : text() {}
    template <size_t size>
    constexpr explicit OpName(const char (&name)[size]) : text() {
        static_assert(size <= sizeof(text), "the record holds 15 characters and NUL");
        for (size_t i = 0; i < size; ++i) text[i] = name[i];
    }

    bool operator==(const OpName& other) const { return memcmp(text, other.text, sizeof(text)) == 0; }
};

constexpr char kAnyMask[] = "any";  // the mask of a kernel that applies each class
constexpr int kTailWords = 18;

// A record of the table, as it lies in the file.
struct Record {
    char name[64];  // also the symbol in the image
    OpName op;
    char mask[16];
    char toolkit[16];
    uint32_t sm;         // 90 for sm_90a
    uint32_t code;       // Code
    uint32_t dtype_in;   // fa3_dtype, or kAnyDtype
    uint32_t dtype_out;  // the same
    uint32_t head_dim;   // the largest that it takes; 0 when it depends on none
    uint32_t head_dim_v;
    uint32_t tile_m;
    uint32_t tile_n;
    uint32_t threads;
    uint32_t smem_bytes;
    uint32_t blocks_per_sm;
    uint32_t tail_words;    // used of `tail`
    uint64_t image_offset;  // a cubin, or PTX with its final NUL
    uint64_t image_size;
    uint64_t image_digest;      // CRC-32
    uint32_t tail[kTailWords];  // numbers of the operator; the rest is 0
};
static_assert(sizeof(Record) == 256);

// Reads the tail as the structure of an operator, made of uint32_t; false when the record has another number
// of words.
template <typename Tail>
bool read_tail(const Record& record, Tail* tail) {
    static_assert(sizeof(Tail) % sizeof(uint32_t) == 0 && sizeof(Tail) <= sizeof(record.tail));
    if (record.tail_words != sizeof(Tail) / sizeof(uint32_t)) return false;
    memcpy(tail, record.tail, sizeof(Tail));
    return true;
}

// False when a common field has a value that no kernel can have.
bool is_sound(const Record& record, uint64_t file_size);

// The fields that every call compares, for every kernel: apart from the records, so that they fill few cache
// lines.
struct Key {
    OpName op;
    uint32_t smem_bytes;
    uint16_t sm;
    uint16_t head_dim;
    uint16_t head_dim_v;
    uint8_t dtype_in;
    uint8_t dtype_out;
    uint8_t masks;  // a bit for each Mask
    Code code;
};
static_assert(kMasks <= 8 * sizeof(Key::masks));

Key key_of(const Record& record);

}  // namespace fa3
