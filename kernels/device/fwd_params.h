// The one structure that the host fills and a forward kernel reads.
// Plain data only: NVRTC compiles it for the GPU, the C++17 runtime for the CPU.
#pragma once

#ifdef __CUDACC_RTC__
using fa3_i32 = int;
using fa3_u32 = unsigned int;
using fa3_u64 = unsigned long long;
#else
#include <cstdint>
using fa3_i32 = std::int32_t;
using fa3_u32 = std::uint32_t;
using fa3_u64 = std::uint64_t;
#endif

namespace fa3 {

// Same size and alignment as the driver's CUtensorMap, which needs no header here.
struct alignas(64) TensorMap {
    fa3_u64 opaque[16];
};

// A persistent kernel's work queue: `next` is the next tile to hand out, `done` counts the
// thread blocks that found it empty. The last of them sets both to 0 again, so a slot is
// zeroed once, when the host allocates it, and never between launches.
struct TileQueue {
    fa3_u32 next;
    fa3_u32 done;
};

// Attention forward. q (b, sq, h, d), k (b, sk, h_k, d), v (b, sk, h_k, dv), out (b, sq, h, dv), each
// seen by the tensor maps as (d, s, h, b), fastest dimension first, in boxes of 64 x rows x 1 x 1 elements
// under the 128-byte swizzle; lse (b, h, sq) float32, contiguous, natural logarithm.
struct FwdParams {
    TensorMap q;
    TensorMap k;
    TensorMap v;
    TensorMap out;
    float* lse;
    TileQueue* queue;
    float scale_log2;  // softmax_scale * log2(e)
    fa3_i32 batch;
    fa3_i32 heads_q;
    fa3_i32 heads_kv;
    fa3_i32 seqlen_q;
    fa3_i32 seqlen_k;
    fa3_i32 tiles_m;    // ceil(seqlen_q / tile_m)
    fa3_i32 tiles;      // tiles_m * heads_q * batch
    fa3_i32 l2_heads;   // query heads whose tiles are handed out together, so that their K and V share the L2
};

}  // namespace fa3
