// CUDA C++ on the CPU: the subset that the portable kernels use. Every GPU thread is a fiber (emulator.cpp).
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CUTE_DEVICE inline
#define CUTE_UNROLL
#define CUTE_NO_UNROLL
#define __global__
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__

template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}

struct Index {
    int x;
};
extern Index threadIdx;
extern Index blockIdx;
extern Index gridDim;

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace emulator {

constexpr int kLanes = 32;
constexpr size_t kMostShared = 256 * 1024;

// Ends the emulation; `emulate` returns the message.
[[noreturn]] void fail(char const* message);

// Collective of a warp: every lane calls it with its input; the last one to arrive runs `together` over all inputs.
void meet_warp(void const* in, size_t in_bytes, void* out, size_t out_bytes,
               void (*together)(void const* in, void* out));
void meet_block();

template <class In, class Out, void (*kTogether)(In const (&)[kLanes], Out (&)[kLanes])>
Out together(In const& in) {
    Out out;
    meet_warp(&in, sizeof in, &out, sizeof out, [](void const* all_in, void* all_out) {
        kTogether(*static_cast<In const(*)[kLanes]>(all_in), *static_cast<Out(*)[kLanes]>(all_out));
    });
    return out;
}

template <class T>
struct Shuffle {
    T value;
    int source;
};
template <class T>
void shuffle(Shuffle<T> const (&in)[kLanes], T (&out)[kLanes]) {
    for (int lane = 0; lane < kLanes; ++lane) out[lane] = in[in[lane].source].value;
}
inline void ballot(bool const (&in)[kLanes], uint32_t (&out)[kLanes]) {
    uint32_t bits = 0;
    for (int lane = 0; lane < kLanes; ++lane) bits |= static_cast<uint32_t>(in[lane]) << lane;
    for (uint32_t& lane : out) lane = bits;
}
inline int lane() { return threadIdx.x % kLanes; }

}  // namespace emulator

// Dynamic shared memory; its addresses are offsets, as in the shared window of a GPU.
extern "C" {
extern unsigned char smem[emulator::kMostShared];
}
inline size_t __cvta_generic_to_shared(void const* pointer) {
    return static_cast<size_t>(static_cast<unsigned char const*>(pointer) - smem);
}

inline void __syncthreads() { emulator::meet_block(); }
inline uint32_t __ballot_sync(uint32_t, bool vote) { return emulator::together<bool, uint32_t, emulator::ballot>(vote); }
inline bool __any_sync(uint32_t mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline void __syncwarp() { __ballot_sync(0xFFFFFFFF, false); }
template <class T>
T __shfl_sync(uint32_t, T value, int source) {
    return emulator::together<emulator::Shuffle<T>, T, emulator::shuffle<T>>({value, source});
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits) {
    return __shfl_sync(mask, value, emulator::lane() ^ bits);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int step) {
    return __shfl_sync(mask, value, emulator::lane() >= step ? emulator::lane() - step : emulator::lane());
}
template <class T>
T atomicAdd(T* to, T value) {  // fibers do not interrupt one another
    T const before = *to;
    *to += value;
    return before;
}
inline void __threadfence() {}

inline int __ffs(uint32_t bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline float __int_as_float(int bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline float __uint_as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline int __float_as_int(float value) {
    int bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __fdividef(float a, float b) { return a / b; }
inline float __log2f(float x) { return log2f(x); }

namespace cutlass {
inline int canonical_lane_idx() { return emulator::lane(); }
}  // namespace cutlass
