// Files, opened for reading.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace fa3 {

constexpr size_t kMaxPath = 4096;

class File {
  public:
    explicit File(const char* path);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    bool is_open() const { return descriptor_ >= 0; }

    // 0 when it cannot be read.
    uint64_t size() const;

    // Time of the last change, in nanoseconds; 0 when it cannot be read.
    int64_t modified() const;

    bool read_at(uint64_t offset, void* data, size_t size) const;

  private:
    int descriptor_;
};

// Text of the last failure of a file operation on this thread.
const char* file_error();

// The absolute path of a file, allocated with malloc; null when there is no such file.
char* absolute_path(const char* path);

}  // namespace fa3
