// The classes of masks that kernels are compiled for.
#pragma once

#include <stdint.h>

namespace fa3 {

enum class Mask : uint8_t {
    kFull,
    kCausal,  // aligned bottom right
    kLocal,   // windows, chunks and softcap besides
};
constexpr uint32_t kMasks = 3;
constexpr const char* kMaskNames[kMasks] = {"full", "causal", "local"};

inline const char* mask_name(Mask mask) { return kMaskNames[static_cast<int>(mask)]; }

}  // namespace fa3
