#include "system/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

namespace fa3 {
namespace {

struct stat status_of(int descriptor) {
    struct stat status = {};
    fstat(descriptor, &status);
    return status;
}

}  // namespace

File::File(const char* path) : descriptor_(open(path, O_RDONLY | O_CLOEXEC)) {}

File::~File() {
    if (is_open()) close(descriptor_);
}

uint64_t File::size() const { return static_cast<uint64_t>(status_of(descriptor_).st_size); }

int64_t File::modified() const {
    const struct stat status = status_of(descriptor_);
    return int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
}

bool File::read_at(uint64_t offset, void* data, size_t size) const {
    char* next = static_cast<char*>(data);
    while (size > 0) {
        const ssize_t got = pread(descriptor_, next, size, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        next += got;
        offset += static_cast<uint64_t>(got);
        size -= static_cast<size_t>(got);
    }
    return true;
}

const char* file_error() { return strerror(errno); }

char* absolute_path(const char* path) { return realpath(path, nullptr); }

}  // namespace fa3
