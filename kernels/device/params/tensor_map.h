// Descriptors for the tensor copy engine (TMA).
//
// A map describes an operand, fastest dimension first, in boxes of 64 x heads x rows x 1 x 1 elements under the 128-byte
// swizzle. A dense operand is (d, h, seqlen, 1, b). A ragged operand, whose sequences end anywhere (cu_seqlens, seqused or
// pages), is (d, h, kRaggedRows, origins, wraps): rows and origins both step by one row, and a wrap steps by 2^34 bytes
// less one row, so that kRaggedRows = 2^30 wraps go back that many rows, modulo 2^64. Row r of a sequence of n rows that
// starts at row `start` has the coordinates (kRaggedRows - n + r, start + n, kRaggedRows): out of bounds for r >= n, so
// that TMA reads zeros and drops writes there, while the address of the map stays that of the tensor.
#pragma once

#include "params/integers.h"

namespace fa3 {

// Size and alignment of the driver's CUtensorMap.
struct alignas(64) TensorMap {
    fa3_u64 opaque[16];
};

constexpr fa3_i32 kRaggedRows = 1 << 30;
constexpr fa3_u64 kRaggedWrapBytes = fa3_u64(1) << 34;

}  // namespace fa3
