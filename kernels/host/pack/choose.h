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

// Whether a kernel of the operator runs on the device, is allowed, and has the dtypes and the mask.
bool suits(const Key& key, const Device& device, const Wanted& wanted);

// Whether a kernel serves the call, whatever its head dimensions. Inline, because many kernels of a pack are
// of other operators.
inline bool serves_type(const Key& key, const Device& device, const Wanted& wanted) {
    return key.op == wanted.op && suits(key, device, wanted);
}

inline bool covers_head_dims(const Key& key, const Wanted& wanted) {
    return key.head_dim >= wanted.head_dim && key.head_dim_v >= wanted.head_dim_v;
}

// The order of preference that holds for every operator: a cubin for exactly this SM before a portable one,
// and PTX last, each of the newest SM. Negative when `a` comes first, 0 when neither does.
int compare_targets(const Key& a, const Key& b);

// The error of a call that no kernel serves.
fa3_status fail_choice(const Pack& pack, const Device& device, const Wanted& wanted, Error error);

// Calls `offer(key, record)` for each kernel that serves the call, whatever its head dimensions.
template <typename Offer>
void offer_kernels(const Pack& pack, const Device& device, const Wanted& wanted, const Offer& offer) {
    for (uint32_t i = 0; i < pack.count; ++i) {
        if (serves_type(pack.keys[i], device, wanted)) offer(pack.keys[i], pack.records[i]);
    }
}

// The best of some kernels: the first by compare_targets and then by `precedes(record, other)`.
struct Choice {
    const Key* key = nullptr;
    const Record* record = nullptr;

    template <typename Precedes>
    void consider(const Key& candidate_key, const Record& candidate, const Precedes& precedes) {
        const int order = key == nullptr ? -1 : compare_targets(candidate_key, *key);
        if (order > 0 || (order == 0 && !precedes(candidate, *record))) return;
        key = &candidate_key;
        record = &candidate;
    }
};

// The best of the kernels that serve the call and that `accepts(record)`. FA3_UNSUPPORTED, with the contents
// of the pack, when there is none.
template <typename Accepts, typename Precedes>
fa3_status choose_kernel(const Pack& pack, const Device& device, const Wanted& wanted, const Accepts& accepts,
                         const Precedes& precedes, const Record** record, Error error) {
    Choice choice;
    offer_kernels(pack, device, wanted, [&](const Key& key, const Record& candidate) {
        if (covers_head_dims(key, wanted) && accepts(candidate)) choice.consider(key, candidate, precedes);
    });
    *record = choice.record;
    return choice.record != nullptr ? FA3_OK : fail_choice(pack, device, wanted, error);
}

// FA3_OK when the pack holds a kernel of the operator (null: of any) for this device.
fa3_status check_device(const Pack& pack, const Device& device, const char* op, Error error);

// See fa3_allow_kernels.
fa3_status allow_kernels(uint32_t codes, int32_t seqlen_q, Error error);

// The length of query sequences that the choice assumes at least.
int32_t assumed_seqlen_q();

}  // namespace fa3
