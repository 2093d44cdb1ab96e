// Attention forward of few query rows over many keys: a kernel that divides the keys among thread blocks.
#pragma once

#include "attention/mask.h"
#include "attention/problem.h"
#include "ops/fwd.h"
#include "pack/launch.h"

namespace fa3 {

// The decode kernel for the call; null: the forward kernels serve it.
const Record* find_decode(const Pack& pack, const Device& device, const fa3_fwd_args& args,
                          const Problem& problem, Mask mask);

// Bytes of scratch memory.
size_t decode_workspace(const fa3_fwd_args& args, const Problem& problem, const Device& device,
                        const Record& kernel);

// Enqueues a checked call, with the workspace of its arguments.
fa3_status run_decode(const fa3_fwd_args& args, const Problem& problem, const ResolvedMask& mask,
                      const Target& target, const Record& kernel, Error error);

}  // namespace fa3
