// First launch of the backward pass: for each query row the LSE, base 2, and delta; zeros for dq; terms of dsink.
// Design note: bwd.md.
//
// A thread block takes one tile of query rows of one head. Compiled once per variant, whose row arrives as FA3_* macros.
#include <cutlass/cutlass.h>

#include "arch/sm80/element.cuh"
#include "params/bwd.h"
#include "parts/math.cuh"
#include "parts/operand_rows.cuh"
#include "parts/query_tiles.cuh"
#include "parts/turns.cuh"
#include "parts/warp.cuh"

namespace fa3 {

using Element = FA3_ELEMENT;
constexpr int kThreads = FA3_THREADS;
constexpr int kRowLanes = 8;  // lanes that share a row
constexpr int kRowsAtOnce = kThreads / kRowLanes;
constexpr int kChunk = 8;  // elements of 16 bytes

struct alignas(16) Chunk {
    uint32_t pairs[kChunk / 2];
};

CUTE_DEVICE float dot(Chunk const& a, Chunk const& b) {
    float sum = 0.f;
    CUTE_UNROLL
    for (int i = 0; i < kChunk / 2; ++i) {
        float x[2], y[2];
        unpack(Element{}, a.pairs[i], x);
        unpack(Element{}, b.pairs[i], y);
        sum += x[0] * y[0] + x[1] * y[1];
    }
    return sum;
}

// The first `columns` of a chunk, fewer than all; the others may belong to another tensor.
CUTE_DEVICE float dot_of_part(Element const* a, Element const* b, int columns) {
    float sum = 0.f;
    for (int i = 0; i < columns; ++i) {
        float x[2], y[2];
        unpack(Element{}, a[i].bits, x);
        unpack(Element{}, b[i].bits, y);
        sum += x[0] * y[0];
    }
    return sum;
}

// This lane's share of the product of two rows.
CUTE_DEVICE float dot_of_share(Element const* a, Element const* b, int columns) {
    float sum = 0.f;
    for (int column = threadIdx.x % kRowLanes * kChunk; column < columns; column += kRowLanes * kChunk) {
        int const left = columns - column;
        sum += left >= kChunk ? dot(*reinterpret_cast<Chunk const*>(a + column), *reinterpret_cast<Chunk const*>(b + column))
                              : dot_of_part(a + column, b + column, left);
    }
    return sum;
}

CUTE_DEVICE float sum_of_row(float x) {
    CUTE_UNROLL
    for (int step = kRowLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFF, x, step);
    return x;
}

struct RowStatistics {
    float lse_log2;
    float delta;
    float sink_term;
};

// Of a row in use. `product`: of the row of out and of its gradient.
CUTE_DEVICE RowStatistics statistics(float lse, float dlse, float product, float sink) {
    if (lse == -infinity()) return {infinity(), 0.f, 0.f};  // no visible key: the row has no influence
    float const delta = product - dlse;
    float const weight = sink == -infinity() ? 0.f : exp2_approx((sink - lse) * kLog2E);
    return {lse * kLog2E, delta, weight == 0.f ? 0.f : -weight * delta};
}

}  // namespace fa3

extern "C" __global__ void __launch_bounds__(fa3::kThreads) FA3_KERNEL(const __grid_constant__ fa3::BwdParams p) {
    using namespace fa3;
    __shared__ float sink_terms[kRowsAtOnce];
    int const tile = blockIdx.x % p.tiles_m;
    int const flat_head = blockIdx.x / p.tiles_m;
    int const batch = flat_head / p.sizes.heads_q;
    int const head = flat_head - batch * p.sizes.heads_q;
    int const tile_m = p.workspace.tile_m;
    SequenceRows const queries = queries_of(p, batch);
    int const first_row = tile * tile_m;
    bool const packed = p.sequences.cu_seqlens_q != nullptr;
    int const group = threadIdx.x / kRowLanes;
    float sink_sum = 0.f;
    if (first_row < queries.length) {
        fa3_i64 const place = workspace_tile(p, batch, head, tile);
        auto const* const out =
            sequence_rows<Element const>(p.out, batch, packed, queries.start) + head * p.out.stride_head;
        auto const* const dout =
            sequence_rows<Element const>(p.dout, batch, packed, queries.start) + head * p.dout.stride_head;
        auto const of_row = [&](LseOperand const& operand, int row) {
            return operand.data[(packed ? fa3_i64(queries.start) : batch * operand.stride_batch) +
                                head * operand.stride_head + row];
        };
        float const sink = p.sink ? p.sink[head] : -infinity();
        for (int i = group; i < tile_m; i += kRowsAtOnce) {
            int const row = first_row + i;
            bool const used = row < queries.length;
            float const product = sum_of_row(
                used ? dot_of_share(out + row * p.out.stride_row, dout + row * p.dout.stride_row, p.sizes.head_dim_v)
                     : 0.f);
            if (threadIdx.x % kRowLanes != 0) continue;
            RowStatistics const of = used ? statistics(of_row(p.lse, row), p.dlse.data ? of_row(p.dlse, row) : 0.f,
                                                       product, sink)
                                          : RowStatistics{infinity(), 0.f, 0.f};
            fa3_i64 const to = place * tile_m + statistics_place(i, tile_m);
            p.workspace.lse_log2[to] = of.lse_log2;
            p.workspace.minus_delta[to] = -of.delta;
            sink_sum += of.sink_term;
        }
        auto* const dq = reinterpret_cast<float4*>(p.workspace.dq + place * tile_m * p.workspace.columns_q);
        for (int i = threadIdx.x; i < tile_m * p.workspace.columns_q / 4; i += kThreads) dq[i] = float4{0.f, 0.f, 0.f, 0.f};
        if (p.workspace.turns != nullptr && threadIdx.x == 0) {
            p.workspace.turns[place] =
                first_turn(p.mask, first_row, queries.length, keys_of(p, batch).length, p.workspace.tile_n);
        }
    }
    if (p.sink == nullptr) return;
    if (threadIdx.x % kRowLanes == 0) sink_terms[group] = sink_sum;
    __syncthreads();
    if (threadIdx.x == 0) {  // in a fixed order, so that the result has the same bits every time
        float sum = 0.f;
        for (int i = 0; i < kRowsAtOnce; ++i) sum += sink_terms[i];
        p.workspace.sink_partials[(fa3_i64(head) * p.sizes.batch + batch) * p.tiles_m + tile] = sum;
    }
}
