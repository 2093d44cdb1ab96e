// The choice of the kernel that serves a call.
#pragma once

#include <stdint.h>

#include "pack/pack.h"
#include "system/device.h"

namespace fa3 {

struct Wanted {
    OpName op;
    Mask mask;
    int32_t dtype_in;  // fa3_dtype
    int32_t dtype_out;
    int64_t head_dim;
    int64_t head_dim_v;
    bool any_code = false;  // whatever `fa3_allow_kernels` allows
};

// Whether a kernel runs on the device, is allowed, and covers the call by its common fields.
bool serves(const Key& key, const Device& device, const Wanted& wanted);

// The order of preference that holds for every operator: a cubin for exactly this SM before a portable one,
// and PTX last, each of the newest SM. Negative when `a` comes first, 0 when neither does.
int compare_targets(const Key& a, const Key& b);

// The error of a call that no kernel serves.
fa3_status fail_choice(const Pack& pack, const Device& device, const Wanted& wanted, Error error);

// Of the kernels that serve the call and that `accepts(record)`, the first by compare_targets and then by
// `precedes(record, other)`. FA3_UNSUPPORTED, with the contents of the pack, when there is none.
template <typename Accepts, typename Precedes>
fa3_status choose_kernel(const Pack& pack, const Device& device, const Wanted& wanted, const Accepts& accepts,
                         const Precedes& precedes, const Record** record, Error error) {
    const Key* best = nullptr;
    *record = nullptr;
    for (uint32_t i = 0; i < pack.count; ++i) {
        const Key& key = pack.keys[i];
        const Record& candidate = pack.records[i];
        if (!serves(key, device, wanted) || !accepts(candidate)) continue;
        const int order = best == nullptr ? -1 : compare_targets(key, *best);
        if (order > 0 || (order == 0 && !precedes(candidate, **record))) continue;
        best = &key;
        *record = &candidate;
    }
    return best != nullptr ? FA3_OK : fail_choice(pack, device, wanted, error);
}

// FA3_OK when the pack holds a kernel of the operator (null: of any) for this device.
fa3_status check_device(const Pack& pack, const Device& device, const char* op, Error error);

// See fa3_allow_kernels.
fa3_status allow_kernels(uint32_t codes, int32_t seqlen_q, Error error);

// The length of query sequences that the choice assumes at least.
int32_t assumed_seqlen_q();

}  // namespace fa3
