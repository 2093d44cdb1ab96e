// Last launch of the backward pass: dq from the workspace, dsink, and zeros in rows of packed tensors that no sequence uses.
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
#include "parts/store_accumulators.cuh"
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
    int const groups = columns / (8 * kAccumulators);
    for (int i = threadIdx.x / 32; i < tile_m / 16 * groups; i += kThreads / 32) {
        int const row_tile = i / groups;
        int const first_column_tile = (i - row_tile * groups) * kAccumulators;
        if (first_column_tile * 8 >= p.sizes.head_dim) continue;
        float x[4 * kAccumulators];
        CUTE_UNROLL
        for (int j = 0; j < kAccumulators; ++j) {
            float4 const of = sums_of_lane(sums + accumulator_offset(row_tile, first_column_tile + j, columns), lane, p.workspace.lane_floats);
            x[4 * j] = of.x;
            x[4 * j + 1] = of.y;
            x[4 * j + 2] = of.z;
            x[4 * j + 3] = of.w;
        }
        int const warp_row = first_row + row_tile * 16;
        CUTE_UNROLL
        for (int half = 0; half < 2; ++half) {
            if (warp_row + half * 8 + lane / 4 < queries.length) continue;
            CUTE_UNROLL
            for (int j = 0; j < kAccumulators; ++j) x[4 * j + 2 * half] = x[4 * j + 2 * half + 1] = 0.f;  // may hold anything
        }
        int const column = first_column_tile * 8;
        store_accumulators<Element>(x, p.softmax_scale, lane, p.sizes.head_dim - column, [&](int row) {
            return warp_row + row < queries.slot ? dq + (warp_row + row) * p.dq.stride_row + column : nullptr;
        });
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

// Zeros in rows [first, end) of a packed tensor: this block's share.
CUTE_DEVICE void clear_rows(Operand const& operand, int first, int end, int heads, int columns, int block, int blocks) {
    int const chunks = (columns + kChunk - 1) / kChunk;
    fa3_i64 const count = fa3_i64(max(0, end - first)) * heads * chunks;
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

// Zeros in rows of packed tensors that no tile covers: behind the last sequence, and, where fewer rows are used than there
// are, within a sequence behind its longest used length.
CUTE_DEVICE void clear_unused(BwdParams const& p, int block) {
    auto const clear = [&](int const* cu_seqlens, int longest, int total, auto const& clear_between) {
        if (cu_seqlens == nullptr) return;
        for (int batch = 0; batch < p.sizes.batch; ++batch) {
            int const end = cu_seqlens[batch + 1];
            int const covered = cu_seqlens[batch] + longest;
            if (covered < end) clear_between(covered, end);
        }
        clear_between(cu_seqlens[p.sizes.batch], total);
    };
    clear(p.sequences.cu_seqlens_q, p.sizes.seqlen_q, p.total_q, [&](int first, int end) {
        clear_rows(p.dq, first, end, p.sizes.heads_q, p.sizes.head_dim, block, p.tail_blocks);
    });
    clear(p.sequences.cu_seqlens_k, p.sizes.seqlen_k, p.total_k, [&](int first, int end) {
        clear_rows(p.dk, first, end, p.sizes.heads_kv, p.sizes.head_dim, block, p.tail_blocks);
        clear_rows(p.dv, first, end, p.sizes.heads_kv, p.sizes.head_dim_v, block, p.tail_blocks);
    });
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::kThreads) FA3_KERNEL(const __grid_constant__ fa3::BwdParams p) {
    using namespace fa3;
    __shared__ float of_warps[kThreads / 32];
    int index = blockIdx.x;
    int const tiles = p.workspace.dq == nullptr ? 0 : p.sizes.batch * p.sizes.heads_q * p.tiles_m;
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
    clear_unused(p, index);
}
