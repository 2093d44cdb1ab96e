// Combines partial results of attention over parts of the keys (`params/combine.h`). Design note: combine.md.
#include <cutlass/cutlass.h>

#include "arch/sm80/element.cuh"
#include "params/combine.h"
#include "parts/math.cuh"
#include "parts/warp.cuh"

namespace fa3 {

constexpr int kTileM = FA3_TILE_M;
constexpr int kThreads = FA3_THREADS;
static_assert(kTileM == kThreads / 32, "one warp a row computes the weights");

// Element offsets of a row; in the partial results those of split 0.
struct RowOffsets {
    fa3_i64 out_partial;
    fa3_i64 lse_partial;
    fa3_i64 out;
    fa3_i64 lse;
};

CUTE_DEVICE RowOffsets row_offsets(CombineParams const& p, fa3_i64 row) {
    fa3_i64 const flat_head = row / p.seqlen;
    fa3_i64 const position = row - flat_head * p.seqlen;
    fa3_i64 const batch = flat_head / p.heads;
    fa3_i64 const head = flat_head - batch * p.heads;
    return {batch * p.out_partial_stride_batch + position * p.out_partial_stride_row + head * p.out_partial_stride_head,
            batch * p.lse_partial_stride_batch + head * p.lse_partial_stride_head + position,
            batch * p.out.stride_batch + position * p.out.stride_row + head * p.out.stride_head,
            batch * p.lse.stride_batch + head * p.lse.stride_head + position};
}

// Computes, with one warp, the weights of a row's splits: they sum to 1, or are all 0. Returns the row's LSE.
CUTE_DEVICE float compute_weights(CombineParams const& p, fa3_i64 lse_partial, float (&weights)[kMaxSplits]) {
    int const lane = cutlass::canonical_lane_idx();
    float own[kMaxSplits / 32];
    float peak = -infinity();
    CUTE_UNROLL
    for (int i = 0; i < kMaxSplits / 32; ++i) {
        int const split = i * 32 + lane;
        own[i] = split < p.splits ? p.lse_partial[lse_partial + split * p.lse_partial_stride_split] : -infinity();
        peak = fmaxf(peak, own[i]);
    }
    peak = warp_max(peak);
    float const base = peak == -infinity() ? 0.f : peak;  // -inf - -inf is NaN
    float sum = 0.f;
    CUTE_UNROLL
    for (int i = 0; i < kMaxSplits / 32; ++i) {
        own[i] = exp2_approx((own[i] - base) * kLog2E);
        sum += own[i];
    }
    sum = warp_sum(sum);
    float const factor = sum == 0.f ? 0.f : 1.f / sum;
    CUTE_UNROLL
    for (int i = 0; i < kMaxSplits / 32; ++i) weights[i * 32 + lane] = own[i] * factor;
    return sum == 0.f ? -infinity() : peak + logf(sum);
}

// Neighbouring elements of a row, accessed at once.
template <int Count>
struct alignas(4 * Count) Floats {
    float x[Count];
};
template <int Count>
struct alignas(2 * Count) Words {
    uint16_t bits[Count];
};

template <class Element, int Count>
CUTE_DEVICE void store_16bit(void* out, fa3_i64 offset, Floats<Count> const& value) {
    Words<Count> words;
    CUTE_UNROLL
    for (int i = 0; i < Count; ++i) words.bits[i] = static_cast<uint16_t>(pack(Element{}, value.x[i], 0.f));
    *reinterpret_cast<Words<Count>*>(static_cast<uint16_t*>(out) + offset) = words;
}

// Sums the splits of this block's rows; a thread takes Count columns at a time.
template <int Count>
CUTE_DEVICE void sum_rows(CombineParams const& p, int rows, RowOffsets const (&offsets)[kTileM],
                          float const (&weights)[kTileM][kMaxSplits]) {
    int const columns = p.head_dim_v / Count;
    for (int item = threadIdx.x; item < rows * columns; item += kThreads) {
        int const row = item / columns;
        int const column = (item - row * columns) * Count;
        float const* from = p.out_partial + offsets[row].out_partial + column;
        Floats<Count> total{};
#pragma unroll 8
        for (int split = 0; split < p.splits; ++split, from += p.out_partial_stride_split) {
            float const weight = weights[row][split];
            Floats<Count> part{};
            if (weight != 0.f) part = *reinterpret_cast<Floats<Count> const*>(from);
            CUTE_UNROLL
            for (int i = 0; i < Count; ++i) total.x[i] += weight * part.x[i];
        }
        fa3_i64 const to = offsets[row].out + column;
        if (p.out_dtype == kFp32) {
            *reinterpret_cast<Floats<Count>*>(static_cast<float*>(p.out.data) + to) = total;
        } else if (p.out_dtype == kFp16) {
            store_16bit<Half>(p.out.data, to, total);
        } else {
            store_16bit<Bfloat16>(p.out.data, to, total);
        }
    }
}

// Whether four elements can be accessed at once in every row of both tensors.
CUTE_DEVICE bool allows_fours(CombineParams const& p) {
    fa3_i64 const elements = p.head_dim_v | p.out_partial_stride_split | p.out_partial_stride_batch |
                             p.out_partial_stride_row | p.out_partial_stride_head | p.out.stride_batch |
                             p.out.stride_row | p.out.stride_head;
    auto const from = reinterpret_cast<fa3_u64>(p.out_partial);
    auto const to = reinterpret_cast<fa3_u64>(p.out.data);
    fa3_u64 const out_bytes = p.out_dtype == kFp32 ? 16 : 8;
    return elements % 4 == 0 && from % 16 == 0 && to % out_bytes == 0;
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::kThreads) FA3_KERNEL(const __grid_constant__ fa3::CombineParams p) {
    using namespace fa3;
    __shared__ RowOffsets offsets[kTileM];
    __shared__ float weights[kTileM][kMaxSplits];
    fa3_i64 const first = static_cast<fa3_i64>(blockIdx.x) * kTileM;
    fa3_i64 const left = static_cast<fa3_i64>(p.batch) * p.heads * p.seqlen - first;
    int const rows = left < kTileM ? static_cast<int>(left) : kTileM;
    int const warp = threadIdx.x / 32;
    if (warp < rows) {
        RowOffsets const at = row_offsets(p, first + warp);
        float const lse = compute_weights(p, at.lse_partial, weights[warp]);
        if (cutlass::canonical_lane_idx() == 0) {
            offsets[warp] = at;
            p.lse.data[at.lse] = lse;
        }
    }
    __syncthreads();
    if (allows_fours(p)) {
        sum_rows<4>(p, rows, offsets, weights);
    } else {
        sum_rows<1>(p, rows, offsets, weights);
    }
}
