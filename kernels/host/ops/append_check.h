// Checks of the arguments of append. They need no driver, no GPU and no pack.
#pragma once

#include "attention/layout.h"
#include "ops/append.h"
#include "system/error.h"

namespace fa3 {

inline Storage storage_of_new(const fa3_append_args& args) {
    return args.cu_seqlens_new != nullptr ? Storage::kPacked : Storage::kDense;
}
inline Storage storage_of_q(const fa3_append_args& args) {
    return args.cu_seqlens_q != nullptr ? Storage::kPacked : Storage::kDense;
}
inline Storage storage_of_cache(const fa3_append_args& args) {
    return args.page_table != nullptr ? Storage::kPages : Storage::kSlots;
}

// Dtypes, shapes and numbers of everything but q_out and the addresses.
fa3_status check_append_shapes(const fa3_append_args& args, Error error);

// check_append_shapes, q_out, strides and addresses.
fa3_status check_append(const fa3_append_args& args, Error error);

}  // namespace fa3
