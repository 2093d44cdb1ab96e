// One tile of 16 query rows, one warp: runs SteadySoftmax over blocks of scores in the order of `consume` in
// fwd_sm90_consumer.cuh, and reports overflows. The second pass is that of `revisit_blocks`.
#include "arch/sm80/element.cuh"
#include "parts/steady_softmax.cuh"

namespace fa3 {

constexpr int kRows = 16;
constexpr int kKeys = 16;    // of a block
constexpr int kColumns = 8;  // of V

struct SteadyParams {
    float const* scores;      // (blocks, kRows, kKeys)
    float const* values;      // (blocks, kKeys, kColumns)
    float const* sinks_log2;  // (kRows)
    float* out;               // (kRows, kColumns)
    float* lse;               // (kRows)
    uint8_t* overflow;        // (lanes)
    float scale_log2;
    int blocks;
    int masked;     // of the blocks, the first ones: there rows may have no visible key
    int is_fp16;    // P is fp16, else bf16
    int recompute;  // second pass, after an overflow
};

// Row and column of element i of a thread's accumulators.
inline int row_of(int i) { return cutlass::canonical_lane_idx() / 4 + i / 2 % 2 * 8; }
inline int column_of(int i) { return i / 4 * 8 + cutlass::canonical_lane_idx() % 4 * 2 + i % 2; }

template <class Element, bool kRaiseAtOnce>
void attend(SteadyParams const& p) {
    auto& weights = reinterpret_cast<float(&)[kRows][kKeys]>(smem);
    SteadySoftmax softmax(p.scale_log2);
    float s[kRows * kKeys / 32];
    float o[kRows * kColumns / 32] = {};
    bool overflow = false;
    auto load_scores = [&](int block) {
        for (int i = 0; i < kRows * kKeys / 32; ++i) {
            s[i] = p.scores[(block * kRows + row_of(i)) * kKeys + column_of(i)];
        }
    };
    auto round_weights = [&] {
        for (int i = 0; i < kRows * kKeys / 32; ++i) {
            weights[row_of(i)][column_of(i)] = to_float(Element{}, to_bits(Element{}, s[i]));
        }
    };
    auto add_values = [&](int block) {
        __syncwarp();
        for (int i = 0; i < kRows * kColumns / 32; ++i) {
            for (int key = 0; key < kKeys; ++key) {
                o[i] += weights[row_of(i)][key] * p.values[(block * kKeys + key) * kColumns + column_of(i)];
            }
        }
        __syncwarp();
    };

    auto visit_blocks = [&] {
        load_scores(0);
        softmax.init_references(s);
        softmax.exponentiate(s);
        round_weights();
        for (int block = 1; block < p.blocks; ++block) {
            load_scores(block);
            add_values(block - 1);
            bool const masked = block < p.masked;
            bool const lacks_reference = !masked && softmax.lacks_reference();
            bool const slow_path = any_lane((!kRaiseAtOnce && softmax.needs_raise()) || lacks_reference);
            if (masked) softmax.init_references(s);
            float factor[2];
            if (slow_path) {
                if (!kRaiseAtOnce) {
                    overflow |= softmax.raise_references(factor);
                    rescale_rows(o, factor);
                }
                overflow |= lacks_reference;
            }
            softmax.exponentiate(s);
            if (kRaiseAtOnce && any_lane(softmax.needs_raise())) {
                overflow |= softmax.raise_references(factor);
                rescale_rows(s, factor);
                rescale_rows(o, factor);
            }
            round_weights();
        }
        overflow |= softmax.has_large_reference();
        add_values(p.blocks - 1);
    };
    float factor[2] = {1.f, 1.f};
    auto revisit_blocks = [&] {
        float shift[2] = {0.f, 0.f};
        for (int block = 0; block < p.blocks; ++block) {
            load_scores(block);
            float raised[2] = {1.f, 1.f};
            if (!kRaiseAtOnce && block > 0) overflow |= softmax.raise_references(raised);
            float replaced[2];
            softmax.replace_references(s, shift, replaced);
            softmax.exponentiate(s);
            if (kRaiseAtOnce) {
                overflow |= softmax.raise_references(raised);
                rescale_rows(s, raised);
            }
            float const rescale[2] = {raised[0] * replaced[0], raised[1] * replaced[1]};
            rescale_rows(o, rescale);
            round_weights();
            add_values(block);
        }
        if (!kRaiseAtOnce) overflow |= softmax.raise_references(factor);
        softmax.undo_shifts(shift);
    };
    if (p.recompute) {
        revisit_blocks();
    } else {
        visit_blocks();
        if (!kRaiseAtOnce) overflow |= softmax.raise_references(factor);
    }

    float const sinks_log2[2] = {p.sinks_log2[row_of(0)], p.sinks_log2[row_of(2)]};
    float lse[2];
    softmax.finish(sinks_log2, factor, o, lse);
    for (int i = 0; i < kRows * kColumns / 32; ++i) {
        p.out[row_of(i) * kColumns + column_of(i)] = o[i];
        p.lse[row_of(i)] = lse[i / 2 % 2];
    }
    p.overflow[cutlass::canonical_lane_idx()] = overflow;
}

}  // namespace fa3

inline void FA3_KERNEL(fa3::SteadyParams const& p) {
    if (p.is_fp16) {
        fa3::attend<fa3::Half, true>(p);
    } else {
        fa3::attend<fa3::Bfloat16, false>(p);
    }
}
