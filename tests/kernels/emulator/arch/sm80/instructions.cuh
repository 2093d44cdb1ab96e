// kernels/device/arch/sm80/instructions.cuh for the CPU; semantics: PTX ISA. A copy arrives when its thread waits for it;
// until then its place holds NaN.
#pragma once

#include "arch/sm80/element.cuh"
#include "gpu.h"

namespace fa3 {

inline int opaque_lane() { return emulator::lane(); }

// In emulator.cpp.
void copy_chunk(uint32_t to, void const* from, int bytes);
void commit_copies();
void wait_copies_of(int groups);  // of so many groups that were in flight the longest
int groups_in_flight();
inline void wait_copies() {
    commit_copies();
    wait_copies_of(groups_in_flight());
}
template <int Groups>
void wait_copies_but() {
    int const groups = groups_in_flight() - Groups;
    if (groups > 0) wait_copies_of(groups);
}

// Loads four 8 x 8 matrices; counts rows of one matrix that share a bank.
void read_matrices(uint32_t const (&rows)[emulator::kLanes], uint16_t (&matrices)[4][8][8]);

struct Fragment {
    uint32_t words[4];
};

template <bool kTransposed>
void distribute_matrices(uint32_t const (&rows)[emulator::kLanes], Fragment (&out)[emulator::kLanes]) {
    uint16_t matrices[4][8][8];
    read_matrices(rows, matrices);
    for (int lane = 0; lane < emulator::kLanes; ++lane) {
        int const row = lane / 4;
        int const column = lane % 4 * 2;
        for (int m = 0; m < 4; ++m) {
            uint16_t const low = kTransposed ? matrices[m][column][row] : matrices[m][row][column];
            uint16_t const high = kTransposed ? matrices[m][column + 1][row] : matrices[m][row][column + 1];
            out[lane].words[m] = low | uint32_t{high} << 16;
        }
    }
}

inline void load_matrices(uint32_t (&f)[4], uint32_t address) {
    Fragment const loaded = emulator::together<uint32_t, Fragment, distribute_matrices<false>>(address);
    memcpy(f, loaded.words, sizeof f);
}
inline void load_matrices_transposed(uint32_t (&f)[4], uint32_t address) {
    Fragment const loaded = emulator::together<uint32_t, Fragment, distribute_matrices<true>>(address);
    memcpy(f, loaded.words, sizeof f);
}

struct Factors {
    uint32_t a[4];
    uint32_t b[2];
    float c[4];
};
struct Product {
    float d[4];
};

// d (16 x 8) = a (16 x 16) . b (16 x 8) + c, with fragments as in PTX ISA, "Matrix fragments for mma.m16n8k16".
template <class Element>
void multiply_warp(Factors const (&in)[emulator::kLanes], Product (&out)[emulator::kLanes]) {
    float a[16][16];
    float b[16][8];
    float d[16][8];
    for (int lane = 0; lane < emulator::kLanes; ++lane) {
        int const group = lane / 4;
        for (int half = 0; half < 2; ++half) {
            auto const element = [half](uint32_t word) {
                return to_float(Element{}, static_cast<uint16_t>(word >> 16 * half));
            };
            int const pair = lane % 4 * 2 + half;
            a[group][pair] = element(in[lane].a[0]);
            a[group + 8][pair] = element(in[lane].a[1]);
            a[group][pair + 8] = element(in[lane].a[2]);
            a[group + 8][pair + 8] = element(in[lane].a[3]);
            b[pair][group] = element(in[lane].b[0]);
            b[pair + 8][group] = element(in[lane].b[1]);
            d[group][pair] = in[lane].c[half];
            d[group + 8][pair] = in[lane].c[2 + half];
        }
    }
    for (int m = 0; m < 16; ++m) {
        for (int k = 0; k < 16; ++k) {
            for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
        }
    }
    for (int lane = 0; lane < emulator::kLanes; ++lane) {
        for (int i = 0; i < 4; ++i) out[lane].d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

template <class Element>
void multiply(Element, float* d, uint32_t const (&a)[4], uint32_t b0, uint32_t b1, float const* c) {
    Factors const factors{{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
    Product const product = emulator::together<Factors, Product, multiply_warp<Element>>(factors);
    memcpy(d, product.d, sizeof product.d);
}

}  // namespace fa3
