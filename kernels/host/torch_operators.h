// The operators, as functions on the stack that torch hands over: arguments in, results out. Each owns the
// tensors on the stack from its first line, and puts its results there when it succeeds.
#pragma once

#include "error.h"
#include "torch_shim.h"

namespace fa3 {

// Dense, with a full or causal mask: the call that most programs make, kept free of what the others need.
constexpr char kFwdSchema[] =
    "fwd(Tensor q, Tensor k, Tensor v, float softmax_scale, bool causal, int sm_margin) -> (Tensor out, "
    "Tensor lse)";
fa3_status run_fwd(StableIValue* stack, Error error);

#define FA3_GENERAL_ARGUMENTS                                                                          \
    "Tensor q, Tensor k, Tensor v, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? seqused_q, "    \
    "Tensor? seqused_k, Tensor? page_table, Tensor? sink, SymInt max_seqlen_q, SymInt max_seqlen_k, "  \
    "float softmax_scale, bool causal, int window_left, int window_right, int attention_chunk, float " \
    "softcap, int sm_margin"
constexpr char kFwdGeneralSchema[] = "fwd_general(" FA3_GENERAL_ARGUMENTS ") -> (Tensor out, Tensor lse)";
fa3_status run_fwd_general(StableIValue* stack, Error error);

constexpr char kFwdIntoSchema[] = "fwd_into(" FA3_GENERAL_ARGUMENTS ", Tensor(a!) out) -> Tensor lse";
fa3_status run_fwd_into(StableIValue* stack, Error error);
#undef FA3_GENERAL_ARGUMENTS

#define FA3_COMBINE_ARGUMENTS "Tensor out_partial, Tensor lse_partial"
constexpr char kCombineSchema[] =
    "combine(" FA3_COMBINE_ARGUMENTS ", ScalarType out_dtype) -> (Tensor out, Tensor lse)";
fa3_status run_combine(StableIValue* stack, Error error);

constexpr char kCombineIntoSchema[] = "combine_into(" FA3_COMBINE_ARGUMENTS ", Tensor(a!) out) -> Tensor lse";
fa3_status run_combine_into(StableIValue* stack, Error error);
#undef FA3_COMBINE_ARGUMENTS

}  // namespace fa3
