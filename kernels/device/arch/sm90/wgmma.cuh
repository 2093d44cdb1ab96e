// Matrix products of one warpgroup (wgmma) over tiles in shared memory; A in shared memory or in registers.
#pragma once

#include <cute/arch/mma_sm90_gmma.hpp>
#include <cute/arch/mma_sm90_gmma_ext.hpp>
#include <cute/numeric/integer_sequence.hpp>

#include "arch/fragment.cuh"
#include "arch/slab.cuh"
#include "arch/sm80/element.cuh"
#include "arch/sm90/matrix_descriptor.cuh"

namespace fa3 {

using cute::SM90::GMMA::Major;
using cute::SM90::GMMA::ScaleOut;

template <class Element, int N>
struct Wgmma;

#define FA3_WGMMA(ELEMENT, TYPE, N)                                                \
    template <>                                                                    \
    struct Wgmma<ELEMENT, N> {                                                     \
        template <Major B, Major A = Major::K>                                     \
        using SS = cute::SM90::GMMA::MMA_64x##N##x16_F32##TYPE##TYPE##_SS<A, B>;   \
        template <Major B>                                                         \
        using RS = cute::SM90::GMMA::MMA_64x##N##x16_F32##TYPE##TYPE##_RS<Major::K, B>; \
    };
FA3_WGMMA(Half, F16, 32)
FA3_WGMMA(Half, F16, 64)
FA3_WGMMA(Half, F16, 80)
FA3_WGMMA(Half, F16, 96)
FA3_WGMMA(Half, F16, 112)
FA3_WGMMA(Half, F16, 128)
FA3_WGMMA(Half, F16, 160)
FA3_WGMMA(Half, F16, 192)
FA3_WGMMA(Half, F16, 256)
FA3_WGMMA(Bfloat16, BF16, 32)
FA3_WGMMA(Bfloat16, BF16, 64)
FA3_WGMMA(Bfloat16, BF16, 80)
FA3_WGMMA(Bfloat16, BF16, 96)
FA3_WGMMA(Bfloat16, BF16, 112)
FA3_WGMMA(Bfloat16, BF16, 128)
FA3_WGMMA(Bfloat16, BF16, 160)
FA3_WGMMA(Bfloat16, BF16, 192)
FA3_WGMMA(Bfloat16, BF16, 256)
#undef FA3_WGMMA

// Byte offset of step `step` along the inner dimension, for an operand that is contiguous along it. `Rows`: of a slab.
template <int Rows>
CUTE_DEVICE constexpr uint32_t k_major_offset(int step) {
    constexpr int kStepBytes = kMmaK * 2;
    constexpr int kSlabSteps = kSlabRowBytes / kStepBytes;
    return (step / kSlabSteps) * Rows * kSlabRowBytes + (step % kSlabSteps) * kStepBytes;
}

template <class Op, int Count, int... I>
CUTE_DEVICE void fma_ss(uint64_t a, uint64_t b, float (&d)[Count], ScaleOut accumulate,
                        cute::integer_sequence<int, I...>) {
    Op::fma(a, b, d[I]..., accumulate);
}

template <class Op, int... I>
CUTE_DEVICE void fma_rs(uint32_t const* a, uint64_t b, float (&d)[sizeof...(I)], ScaleOut accumulate,
                        cute::integer_sequence<int, I...>) {
    Op::fma(a[0], a[1], a[2], a[3], b, d[I]..., accumulate);
}

// Keeps the compiler from moving accesses to these registers across this point.
template <class T, int Count>
CUTE_DEVICE void fence_registers(T (&d)[Count]) {
    CUTE_UNROLL
    for (int i = 0; i < Count; ++i) cute::warpgroup_fence_operand(d[i]);
}

// s (64 x N) = q (64 x HeadDim) . k (N x HeadDim)^T; both K-contiguous. `RowsQ`, `RowsK`: rows of a slab. `First`: One adds
// to s.
template <class Element, int N, int HeadDim, int RowsQ, int RowsK, ScaleOut First = ScaleOut::Zero, class Q, class K>
CUTE_DEVICE void gemm_qk(Q q, K k, float (&s)[N / 2]) {
    using Op = typename Wgmma<Element, N>::template SS<Major::K>;
    CUTE_UNROLL
    for (int step = 0; step < HeadDim / kMmaK; ++step) {
        fma_ss<Op>(advance(q, k_major_offset<RowsQ>(step)), advance(k, k_major_offset<RowsK>(step)), s,
                   step == 0 ? First : ScaleOut::One, cute::make_integer_sequence<int, N / 2>{});
    }
}

// o (64 x HeadDimV) += p (64 x N, registers) . v (N x HeadDimV), v contiguous along HeadDimV.
template <class Element, int N, int HeadDimV, class V>
CUTE_DEVICE void gemm_pv(uint32_t const (&p)[N / 4], V v, float (&o)[HeadDimV / 2]) {
    using Op = typename Wgmma<Element, HeadDimV>::template RS<Major::MN>;
    CUTE_UNROLL
    for (int step = 0; step < N / kMmaK; ++step) {
        fma_rs<Op>(&p[4 * step], advance(v, step * kMmaK * kSlabRowBytes), o,
                   ScaleOut::One, cute::make_integer_sequence<int, HeadDimV / 2>{});
    }
}

// d (64 x Columns) = a (Inner x 64)^T . b (Inner x Columns), both contiguous along their outer dimension: 64 rows of a, and
// columns of b within one slab or whole slabs, whose distance is in the descriptor. An inner step is 16 rows of a slab.
template <class Element, int Inner, int Columns, class A, class B, int Count>
CUTE_DEVICE void gemm_transposed(A a, B b, float (&d)[Count]) {
    using Op = typename Wgmma<Element, Columns>::template SS<Major::MN, Major::MN>;
    CUTE_UNROLL
    for (int step = 0; step < Inner / kMmaK; ++step) {
        fma_ss<Op>(advance(a, step * kMmaK * kSlabRowBytes), advance(b, step * kMmaK * kSlabRowBytes), d,
                   step == 0 ? ScaleOut::Zero : ScaleOut::One, cute::make_integer_sequence<int, Columns / 2>{});
    }
}

}  // namespace fa3
