// CUTLASS's names of 16-bit elements: conversion from fp32, two at a time.
#pragma once

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include "instructions.cuh"

namespace fa3 {

CUTE_DEVICE uint32_t pack(cutlass::half_t, float low, float high) { return pack(Half{}, low, high); }
CUTE_DEVICE uint32_t pack(cutlass::bfloat16_t, float low, float high) { return pack(Bfloat16{}, low, high); }

}  // namespace fa3
