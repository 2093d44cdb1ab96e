// One tile of 16 query rows, one warp: drives SteadySoftmax over blocks of scores as `consume` of fwd_sm90.cu does, and
// reports when it says that it is too late.
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
    uint8_t* late;            // (lanes)
    float scale_log2;
    int blocks;
    int masked;  // of them: the first ones, as those in which rows may find nothing that they see
    int narrow;  // P is fp16, else bf16
    int again;   // for the second time
};

// What element i of a thread's share of a matrix is, as the tensor cores lay it out.
inline int row_of(int i) { return cutlass::canonical_lane_idx() / 4 + i / 2 % 2 * 8; }
inline int column_of(int i) { return i / 4 * 8 + cutlass::canonical_lane_idx() % 4 * 2 + i % 2; }

inline bool any_lane(bool condition) { return __any_sync(0xFFFFFFFF, condition); }

template <class Element, bool kNarrow>
void attend(SteadyParams const& p) {
    auto& weights = reinterpret_cast<float(&)[kRows][kKeys]>(smem);
    SteadySoftmax softmax(p.scale_log2);
    float s[kRows * kKeys / 32];
    float o[kRows * kColumns / 32] = {};
    bool late = false;
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

    load_scores(0);
    softmax.adopt(s);
    softmax.exponentiate(s);
    round_weights();
    for (int block = 1; block < p.blocks; ++block) {
        load_scores(block);
        add_values(block - 1);
        bool const masked = block < p.masked;
        bool const bare = !masked && softmax.is_bare();
        bool const mend = any_lane((!kNarrow && softmax.is_high()) || bare || p.again);
        if (masked) softmax.adopt(s);
        float factor[2];
        if (mend) {
            if (!kNarrow) {
                late |= softmax.raise(factor);
                rescale_rows(o, factor);
            }
            late |= bare && !p.again;
            if (p.again) {
                softmax.follow(s, factor);
                rescale_rows(o, factor);
            }
        }
        softmax.exponentiate(s);
        if (kNarrow && any_lane(softmax.is_high())) {
            late |= softmax.raise(factor);
            rescale_rows(s, factor);
            rescale_rows(o, factor);
        }
        round_weights();
    }
    add_values(p.blocks - 1);
    float factor[2] = {1.f, 1.f};
    if (!kNarrow) late |= softmax.raise(factor);

    float const sinks_log2[2] = {p.sinks_log2[row_of(0)], p.sinks_log2[row_of(2)]};
    float lse[2];
    softmax.finish(sinks_log2, factor, o, lse);
    for (int i = 0; i < kRows * kColumns / 32; ++i) {
        p.out[row_of(i) * kColumns + column_of(i)] = o[i];
        p.lse[row_of(i)] = lse[i / 2 % 2];
    }
    p.late[cutlass::canonical_lane_idx()] = late;
}

}  // namespace fa3

inline void FA3_KERNEL(fa3::SteadyParams const& p) {
    if (p.narrow) {
        fa3::attend<fa3::Half, true>(p);
    } else {
        fa3::attend<fa3::Bfloat16, false>(p);
    }
}
