#include "attention/mask.h"

namespace fa3 {
namespace {

int32_t least(int64_t a, int64_t b) { return static_cast<int32_t>(a < b ? a : b); }

}  // namespace

ResolvedMask resolve_mask(const Inputs& inputs, const Problem& problem) {
    // Limits beyond the longest sequence are lowered to it, so that sums in the kernel do not overflow.
    const fa3_mask& given = inputs.mask;
    MaskParams mask;
    mask.window_left = given.window_left < 0 ? -1 : least(given.window_left, problem.bound_k);
    mask.window_right = given.causal == 1        ? 0
                        : given.window_right < 0 ? -1
                                                 : least(given.window_right, problem.bound_q);
    const int64_t longest = problem.bound_q > problem.bound_k ? problem.bound_q : problem.bound_k;
    mask.attention_chunk = least(given.attention_chunk, longest < 1 ? 1 : longest);
    // A window that hides nothing is dropped where every length is known: aligned bottom right, a single
    // query sees every key even under a causal mask. Ragged batches keep it, because the kernel of a
    // sequence, and so perhaps its bits, may not depend on the other sequences.
    if (problem.is_dense()) {
        if (mask.window_left >= problem.seqlen_k - 1) mask.window_left = -1;
        if (mask.window_right >= problem.seqlen_q - 1) mask.window_right = -1;
    }
    const bool local = mask.window_left >= 0 || mask.window_right > 0 || mask.attention_chunk > 0 ||
                       inputs.scale.softcap > 0;
    return {local ? Mask::kLocal : mask.window_right == 0 ? Mask::kCausal : Mask::kFull, mask};
}

}  // namespace fa3
