#include "attention/mask.h"

namespace fa3 {
namespace {

int32_t least(int64_t a, int64_t b) { return static_cast<int32_t>(a < b ? a : b); }

}  // namespace

FwdMask resolve_mask(const fa3_fwd_args& args, const Problem& problem) {
    // A limit that no sequence can reach is the same as a larger one; cut there, the kernel's sums do not
    // overflow.
    FwdMask mask;
    mask.window_left = args.window_left < 0 ? -1 : least(args.window_left, problem.bound_k);
    mask.window_right = args.causal == 1        ? 0
                        : args.window_right < 0 ? -1
                                                : least(args.window_right, problem.bound_q);
    const int64_t longest = problem.bound_q > problem.bound_k ? problem.bound_q : problem.bound_k;
    mask.attention_chunk = least(args.attention_chunk, longest < 1 ? 1 : longest);
    // Where every length is known, a window that hides nothing is dropped: aligned to the bottom right, one
    // query sees every key even under a causal mask. Ragged batches keep it, for a sequence must not get
    // another kernel, and so perhaps other bits, because of its neighbours.
    if (problem.is_dense()) {
        if (mask.window_left >= problem.seqlen_k - 1) mask.window_left = -1;
        if (mask.window_right >= problem.seqlen_q - 1) mask.window_right = -1;
    }
    const bool general =
        mask.window_left >= 0 || mask.window_right > 0 || mask.attention_chunk > 0 || args.softcap > 0;
    mask.kind = general ? Mask::kLocal : mask.window_right == 0 ? Mask::kCausal : Mask::kFull;
    return mask;
}

}  // namespace fa3
