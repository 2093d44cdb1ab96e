// The mask of a call: the class of kernel that applies it, and its parameters.
#pragma once

#include "attention/mask_class.h"
#include "attention/problem.h"
#include "params/mask.h"

namespace fa3 {

struct ResolvedMask {
    Mask mask;
    MaskParams params;
};

// A softcap needs a kernel of the local class.
ResolvedMask resolve_mask(const Inputs& inputs, const Problem& problem);

}  // namespace fa3
