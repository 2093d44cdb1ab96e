// 16-bit elements: conversion from fp32, two at a time.
#pragma once

#include <cute/config.hpp>
#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

namespace fa3 {

CUTE_DEVICE uint32_t pack(cutlass::half_t, float low, float high) {
    uint32_t out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}
CUTE_DEVICE uint32_t pack(cutlass::bfloat16_t, float low, float high) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

}  // namespace fa3
