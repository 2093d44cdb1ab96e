// The element types of tensors.
#pragma once

#include <stdint.h>

#include "system/error.h"

namespace fa3 {

constexpr int32_t kDtypes = 3;
constexpr int32_t kAnyDtype = 255;  // in a record of the pack: the kernel takes each of them

struct DtypeInfo {
    const char* name;
    int64_t bytes;
    int tensor_map_type;  // CUtensorMapDataType
};

constexpr DtypeInfo kDtypeInfos[kDtypes] = {{"fp16", 2, 6}, {"bf16", 2, 9}, {"fp32", 4, 7}};

inline bool is_dtype(int64_t dtype) { return 0 <= dtype && dtype < kDtypes; }

// Of a dtype that passed is_dtype.
inline const DtypeInfo& info_of(int32_t dtype) { return kDtypeInfos[dtype]; }

}  // namespace fa3
