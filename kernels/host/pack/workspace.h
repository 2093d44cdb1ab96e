// Scratch memory of a call, which the caller allocates.
//
// An operator with scratch takes `void* workspace` and `size_t workspace_size` in its arguments and exports
// fa3_<op>_workspace(args, &size). Both calls run the same sequence of `take`s: over no memory to measure,
// and over the caller's block to divide it.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "system/error.h"

namespace fa3 {

class Workspace {
  public:
    explicit Workspace(void* data) : data_(static_cast<char*>(data)) {}

    // Room for `count` elements, aligned for the tensor copy engine and apart from other buffers' cache
    // lines; null while measuring.
    template <typename Element>
    Element* take(int64_t count) {
        constexpr size_t kAlignment = 128;
        char* const start = data_ == nullptr ? nullptr : data_ + size_;
        size_ += (static_cast<size_t>(count) * sizeof(Element) + kAlignment - 1) / kAlignment * kAlignment;
        return reinterpret_cast<Element*>(start);
    }

    // Bytes taken.
    size_t size() const { return size_; }

    // Whether the caller's block of `given` bytes holds everything taken.
    fa3_status check(size_t given, Error error) const {
        if ((data_ != nullptr || size_ == 0) && given >= size_) return FA3_OK;
        return error.fail(FA3_INVALID_ARGUMENT, "workspace has %zu bytes at %p; it should have %zu", given,
                          static_cast<void*>(data_), size_);
    }

  private:
    char* data_;
    size_t size_ = 0;
};

}  // namespace fa3
