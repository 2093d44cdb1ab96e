// kernels/device/arch/sm80/element.cuh for the CPU; semantics: PTX ISA.
#pragma once

#include "gpu.h"

namespace fa3 {

struct Half {
    uint16_t bits;
};
struct Bfloat16 {
    uint16_t bits;
};

inline float to_float(Half, uint16_t bits) {
    _Float16 half;
    memcpy(&half, &bits, sizeof half);
    return static_cast<float>(half);
}
inline float to_float(Bfloat16, uint16_t bits) { return __int_as_float(static_cast<int>(uint32_t{bits} << 16)); }

inline uint16_t to_bits(Half, float value) {
    auto const half = static_cast<_Float16>(value);
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}
inline uint16_t to_bits(Bfloat16, float value) {
    if (value != value) return 0x7FFF;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <class Element>
uint32_t pack(Element element, float low, float high) {
    return to_bits(element, low) | uint32_t{to_bits(element, high)} << 16;
}

template <class Element>
void unpack(Element element, uint32_t pair, float (&x)[2]) {
    x[0] = to_float(element, static_cast<uint16_t>(pair));
    x[1] = to_float(element, static_cast<uint16_t>(pair >> 16));
}

}  // namespace fa3
