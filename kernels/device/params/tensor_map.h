// Descriptors for the tensor copy engine (TMA).
//
// A map describes an operand, fastest dimension first, in boxes of 64 x heads x rows x 1 x 1 elements under the 128-byte
// swizzle. A dense operand is (d, h, seqlen, 1, b). A ragged operand, whose sequences end anywhere (cu_seqlens, seqused or
// pages), is (d, h, kRaggedRows, origins, wraps): origins step by a unit that divides the steps of rows and of slots
// (sequences or pages that are not packed), and a wrap steps by 2^34 bytes less one row, so that kRaggedRows = 2^30 wraps
// go back that many rows, modulo 2^64. Row r of a sequence of n rows that starts `start` units behind the tensor's first
// row has the coordinates (kRaggedRows - n + r, start + n * MapSteps::row, kRaggedRows): out of bounds for r >= n, so that
// TMA reads zeros and drops writes there, while the address of the map stays that of the tensor.
#pragma once

#include "params/integers.h"

namespace fa3 {

// Size and alignment of the driver's CUtensorMap.
struct alignas(64) TensorMap {
    fa3_u64 opaque[16];
};

// Origins of a ragged map from one row to the next, and from one slot to the next; 0 where there are no slots.
struct MapSteps {
    fa3_i32 row;
    fa3_i32 slot;
};

constexpr fa3_i32 kRaggedRows = 1 << 30;
constexpr fa3_u64 kRaggedWrapBytes = fa3_u64(1) << 34;

}  // namespace fa3
