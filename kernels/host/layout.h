// Which tensors the tensor copy engine (TMA) can read and write.
#pragma once

#include <stdint.h>

#include "error.h"

namespace fa3 {

constexpr int kRank = 4;
constexpr const char* kDimensionNames[kRank] = {"batch", "seqlen", "heads", "head_dim"};
constexpr int64_t kElementBytes = 2;    // of every dtype of this library
constexpr int64_t kCopyAlignment = 16;  // bytes, of the base and of every stride

bool is_empty(const fa3_tensor& tensor);

// See fa3_check_layout.
fa3_status check_layout(const fa3_tensor& tensor, const char* argument, Error error);

}  // namespace fa3
