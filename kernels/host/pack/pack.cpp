#include "pack/pack.h"

#include <stdlib.h>
#include <string.h>

#include "system/file.h"
#include "system/library.h"
#include "system/setup_lock.h"

namespace fa3 {
namespace {

constexpr char kFileName[] = "kernels.fa3pack";
constexpr char kMagic[8] = {'F', 'A', '3', 'P', 'A', 'C', 'K', 1};
constexpr uint32_t kFormat = 3;

struct Header {
    char magic[8];
    uint32_t format;
    uint32_t count;
    uint64_t file_size;
    uint64_t table_digest;
};
static_assert(sizeof(Header) == 32);

std::atomic<const Pack*> current_pack;
Pack* opened_packs;  // every pack that was in use; guarded by the setup lock

struct CrcTable {
    uint32_t of[256];

    constexpr CrcTable() : of() {
        for (uint32_t byte = 0; byte < 256; ++byte) {
            of[byte] = byte;
            for (int bit = 0; bit < 8; ++bit) of[byte] = (of[byte] >> 1) ^ (of[byte] & 1 ? 0xedb88320 : 0);
        }
    }
};

// CRC-32 as zlib computes it, against damage. Against tampering there is the sha256 of the wheel.
uint64_t crc32(const void* data, size_t size) {
    static constexpr CrcTable kTable;
    uint32_t digest = 0xffffffff;
    for (size_t i = 0; i < size; ++i) {
        digest = (digest >> 8) ^ kTable.of[(digest ^ static_cast<const unsigned char*>(data)[i]) & 0xff];
    }
    return digest ^ 0xffffffff;
}

fa3_status read_table(const char* path, const File& file, const Header& header, Record* records,
                      Error error) {
    const size_t bytes = header.count * sizeof(Record);
    if (!file.read_at(sizeof(Header), records, bytes)) {
        return error.fail(FA3_BAD_PACK, "kernel pack %s cannot be read: %s", path, file_error());
    }
    if (crc32(records, bytes) != header.table_digest) {
        return error.fail(FA3_BAD_PACK, "kernel pack %s is altered: its table does not match its digest",
                          path);
    }
    for (uint32_t i = 0; i < header.count; ++i) {
        if (!is_sound(records[i], header.file_size)) {
            return error.fail(FA3_BAD_PACK, "kernel pack %s is malformed: row %u has a field out of range",
                              path, i);
        }
    }
    return FA3_OK;
}

fa3_status open_pack(const char* path, Pack& pack, Error error) {
    const File file(path);
    if (!file.is_open()) {
        return error.fail(FA3_BAD_PACK, "kernel pack %s cannot be opened: %s", path, file_error());
    }
    Header header;
    const uint64_t size = file.size();
    if (size < sizeof(header) || !file.read_at(0, &header, sizeof(header))) {
        return error.fail(FA3_BAD_PACK,
                          "kernel pack %s is truncated: it has %llu bytes, less than its header", path,
                          static_cast<unsigned long long>(size));
    }
    if (memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
        return error.fail(FA3_BAD_PACK, "%s is not a kernel pack", path);
    }
    if (header.format != kFormat) {
        return error.fail(FA3_BAD_PACK, "kernel pack %s has format %u; this library reads format %u", path,
                          header.format, kFormat);
    }
    if (header.file_size != size) {
        return error.fail(
            FA3_BAD_PACK, "kernel pack %s is truncated or altered: it has %llu bytes, its header says %llu",
            path, static_cast<unsigned long long>(size), static_cast<unsigned long long>(header.file_size));
    }
    if (header.count > (size - sizeof(header)) / sizeof(Record)) {
        return error.fail(FA3_BAD_PACK, "kernel pack %s is altered: %u rows do not fit in it", path,
                          header.count);
    }
    pack.count = header.count;
    pack.modified = file.modified();
    pack.path = absolute_path(path);  // the process may change its folder before an image is read
    pack.records = static_cast<Record*>(calloc(header.count, sizeof(Record)));
    pack.keys = static_cast<Key*>(calloc(header.count, sizeof(Key)));
    pack.loaded = static_cast<std::atomic<cuda::Function>*>(
        calloc(static_cast<size_t>(kMaxDevices) * header.count, sizeof(std::atomic<cuda::Function>)));
    const bool has_memory = pack.records != nullptr && pack.keys != nullptr && pack.loaded != nullptr;
    if (pack.path == nullptr || (header.count > 0 && !has_memory)) {
        return error.fail(FA3_BAD_PACK, "kernel pack %s cannot be read: out of memory", path);
    }
    if (fa3_status status = read_table(path, file, header, pack.records, error); status != FA3_OK)
        return status;
    for (uint32_t i = 0; i < pack.count; ++i) pack.keys[i] = key_of(pack.records[i]);
    return FA3_OK;
}

void free_pack(Pack* pack) {
    free(pack->path);
    free(pack->records);
    free(pack->keys);
    free(pack->loaded);
    free(pack);
}

// The time of the last change does not suffice: two writes can share one tick of the clock. The records have
// the digests of all images.
bool is_same(const Pack& a, const Pack& b) {
    return a.modified == b.modified && a.count == b.count && strcmp(a.path, b.path) == 0 &&
           memcmp(a.records, b.records, a.count * sizeof(Record)) == 0;
}

// With the setup lock held.
fa3_status use_pack(const char* path, Error error) {
    Pack* pack = static_cast<Pack*>(calloc(1, sizeof(Pack)));
    if (pack == nullptr)
        return error.fail(FA3_BAD_PACK, "kernel pack %s cannot be read: out of memory", path);
    if (fa3_status status = open_pack(path, *pack, error); status != FA3_OK) {
        free_pack(pack);
        return status;
    }
    Pack* opened = opened_packs;
    while (opened != nullptr && !is_same(*opened, *pack)) opened = opened->next;
    if (opened == nullptr) {
        pack->next = opened_packs;
        opened_packs = opened = pack;
    } else {
        free_pack(pack);
    }
    current_pack.store(opened, std::memory_order_release);
    return FA3_OK;
}

fa3_status use_default_pack(Error error) {
    char path[kMaxPath];
    if (!path_beside_library(kFileName, path, sizeof(path))) {
        return error.fail(FA3_BAD_PACK, "the folder of this library, with %s, cannot be found", kFileName);
    }
    return use_pack(path, error);
}

}  // namespace

fa3_status get_pack(const Pack** pack, Error error) {
    *pack = current_pack.load(std::memory_order_acquire);
    if (*pack != nullptr) return FA3_OK;

    SetupLock lock;
    if (current_pack.load() == nullptr) {
        if (fa3_status status = use_default_pack(error); status != FA3_OK) return status;
    }
    *pack = current_pack.load();
    return FA3_OK;
}

fa3_status set_pack(const char* path, Error error) {
    if (path == nullptr)
        return error.fail(FA3_INVALID_ARGUMENT, "path is null; it should name a kernel pack");
    SetupLock lock;
    return use_pack(path, error);
}

fa3_status read_image(const Pack& pack, const Record& record, void** image, Error error) {
    const File file(pack.path);
    if (!file.is_open()) {
        return error.fail(FA3_BAD_PACK, "kernel pack %s cannot be opened: %s", pack.path, file_error());
    }
    char* bytes = static_cast<char*>(malloc(record.image_size));
    if (bytes == nullptr) {
        return error.fail(FA3_BAD_PACK, "kernel %s cannot be read: out of memory", record.name);
    }
    const char* damage = nullptr;
    if (!file.read_at(record.image_offset, bytes, record.image_size) ||
        crc32(bytes, record.image_size) != record.image_digest) {
        damage = "does not match its digest";
    } else if (static_cast<Code>(record.code) == Code::kPtx && bytes[record.image_size - 1] != '\0') {
        damage = "is PTX that does not end with NUL";
    }
    if (damage != nullptr) {
        free(bytes);
        return error.fail(FA3_BAD_PACK, "kernel pack %s is altered: kernel %s %s", pack.path, record.name,
                          damage);
    }
    *image = bytes;
    return FA3_OK;
}

}  // namespace fa3
