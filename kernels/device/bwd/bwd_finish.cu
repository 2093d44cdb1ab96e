// Last launch of the backward pass: dq from the workspace, dsink, and zeros behind the last sequence of packed tensors.
// Design note: bwd.md.
//
// Thread blocks: one for each tile of query rows of each head; then, with a sink, one for each head; then
// `tail_blocks`. Compiled once per variant, whose row arrives as FA3_* macros.
#include <cutlass/cutlass.h>

#include "arch/sm80/element.cuh"
#include "params/bwd.h"
#include "parts/dq_order.cuh"
#include "parts/operand_rows.cuh"
#include "parts/query_tiles.cuh"
#include "parts/warp.cuh"

namespace fa3 {

using Element = FA3_ELEMENT;
constexpr int kThreads = FA3_THREADS;
constexpr int kChunk = 8;  // elements of 16 bytes

struct alignas(16) Chunk {
    uint32_t pairs[kChunk / 2];
};

CUTE_DEVICE void store_chunk(Element* to, Chunk const& chunk, int columns) {
    if (columns >= kChunk) {
        *reinterpret_cast<Chunk*>(to) = chunk;
        return;
    }
    CUTE_UNROLL
    for (int i = 0; i < kChunk; ++i) {
        if (i < columns) to[i].bits = static_cast<uint16_t>(chunk.pairs[i / 2] >> i % 2 * 16);
    }
}

// Stores four elements of a row, or as many as the row has.
CUTE_DEVICE void store_half_chunk(Element* to, uint2 pairs, int columns) {
    if (columns >= kChunk / 2) {
        *reinterpret_cast<uint2*>(to) = pairs;
        return;
    }
    CUTE_UNROLL
    for (int i = 0; i < kChunk / 2; ++i) {
        if (i < columns) to[i].bits = static_cast<uint16_t>((i < 2 ? pairs.x : pairs.y) >> i % 2 * 16);
    }
}

// The four floats of this lane in an accumulator that starts at `sums`.
CUTE_DEVICE float4 sums_of_lane(float const* sums, int lane, int lane_floats) {
    if (lane_floats == 4) return reinterpret_cast<float4 const*>(sums)[lane];
    return {sums[lane], sums[32 + lane], sums[64 + lane], sums[96 + lane]};
}

// A warp converts 16 rows by 32 columns at a time, four accumulators.
CUTE_DEVICE void finish_tile(BwdParams const& p, int batch, int head, int tile) {
    constexpr int kAccumulators = 4;
    SequenceRows const queries = queries_of(p, batch);
    int const tile_m = p.workspace.tile_m;
    int const first_row = tile * tile_m;
    if (first_row >= queries.slot) return;
    int const columns = p.workspace.columns_q;
    float const* const sums = p.workspace.dq + workspace_tile(p, batch, head, tile) * tile_m * columns;
    auto* const dq = sequence_rows<Element>(p.dq, batch, p.sequences.cu_seqlens_q != nullptr, queries.start) +
                     head * p.dq.stride_head;
    int const lane = threadIdx.x % 32;
    bool const odd = lane % 2;
    int const groups = columns / (8 * kAccumulators);
    for (int i = threadIdx.x / 32; i < tile_m / 16 * groups; i += kThreads / 32) {
        int const row_tile = i / groups;
        int const first_column_tile = (i - row_tile * groups) * kAccumulators;
        if (first_column_tile * 8 >= p.sizes.head_dim) continue;
        float4 x[kAccumulators];
        CUTE_UNROLL
        for (int j = 0; j < kAccumulators; ++j) {
            x[j] = sums_of_lane(sums + accumulator_offset(row_tile, first_column_tile + j, columns), lane, p.workspace.lane_floats);
        }
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            int const row = first_row + row_tile * 16 + half * 8 + lane / 4;
            float const scale = p.softmax_scale;
            CUTE_UNROLL
            for (int j = 0; j < kAccumulators; j += 2) {
                auto const pair_of = [&](float4 const& of) {
                    if (row >= queries.length) return 0u;  // the sums of an unused row may hold anything
                    return half == 0 ? pack(Element{}, of.x * scale, of.y * scale) : pack(Element{}, of.z * scale, of.w * scale);
                };
                // Neighbouring lanes exchange pairs, so that each has four columns of one accumulator.
                uint32_t const first = pair_of(x[j]);
                uint32_t const second = pair_of(x[j + 1]);
                uint32_t const got = __shfl_xor_sync(0xFFFFFFFF, odd ? first : second, 1);
                int const column = (first_column_tile + j + odd) * 8 + lane % 4 / 2 * 4;
                if (row >= queries.slot || column >= p.sizes.head_dim) continue;
                store_half_chunk(dq + row * p.dq.stride_row + column, odd ? uint2{got, second} : uint2{first, got},
                                 p.sizes.head_dim - column);
            }
        }
    }
}

// Sum over the terms of one head, in a fixed order.
CUTE_DEVICE void finish_sink(BwdParams const& p, int head, float* of_warps) {
    int const count = p.sizes.batch * p.tiles_m;
    float const* const terms = p.workspace.sink_partials + fa3_i64(head) * count;
    float sum = 0.f;
    for (int i = threadIdx.x; i < count; i += kThreads) sum += terms[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float total = 0.f;
    for (int warp = 0; warp < kThreads / 32; ++warp) total += of_warps[warp];
    p.dsink[head] = total;
}

// Zeros in rows [first, total) of a packed tensor: this block's share.
CUTE_DEVICE void clear_rows(Operand const& operand, int first, int total, int heads, int columns, int block, int blocks) {
    int const chunks = (columns + kChunk - 1) / kChunk;
    fa3_i64 const count = fa3_i64(max(0, total - first)) * heads * chunks;
    for (fa3_i64 i = fa3_i64(block) * kThreads + threadIdx.x; i < count; i += fa3_i64(blocks) * kThreads) {
        fa3_i64 const row = i / (heads * chunks);
        int const within = static_cast<int>(i - row * (heads * chunks));
        int const head = within / chunks;
        int const column = (within - head * chunks) * kChunk;
        store_chunk(static_cast<Element*>(operand.data) + (first + row) * operand.stride_row + head * operand.stride_head +
                        column,
                    Chunk{}, columns - column);
    }
}

CUTE_DEVICE void clear_tails(BwdParams const& p, int block) {
    if (p.sequences.cu_seqlens_q != nullptr) {
        clear_rows(p.dq, p.sequences.cu_seqlens_q[p.sizes.batch], p.total_q, p.sizes.heads_q, p.sizes.head_dim, block,
                   p.tail_blocks);
    }
    if (p.sequences.cu_seqlens_k != nullptr) {
        int const end = p.sequences.cu_seqlens_k[p.sizes.batch];
        clear_rows(p.dk, end, p.total_k, p.sizes.heads_kv, p.sizes.head_dim, block, p.tail_blocks);
        clear_rows(p.dv, end, p.total_k, p.sizes.heads_kv, p.sizes.head_dim_v, block, p.tail_blocks);
    }
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::kThreads) FA3_KERNEL(const __grid_constant__ fa3::BwdParams p) {
    using namespace fa3;
    __shared__ float of_warps[kThreads / 32];
    int index = blockIdx.x;
    int const tiles = p.sizes.batch * p.sizes.heads_q * p.tiles_m;
    if (index < tiles) {
        int const flat_head = index / p.tiles_m;
        int const batch = flat_head / p.sizes.heads_q;
        finish_tile(p, batch, flat_head - batch * p.sizes.heads_q, index - flat_head * p.tiles_m);
        return;
    }
    index -= tiles;
    if (p.sink != nullptr) {
        if (index < p.sizes.heads_q) {
            finish_sink(p, index, of_warps);
            return;
        }
        index -= p.sizes.heads_q;
    }
    clear_tails(p, index);
}
