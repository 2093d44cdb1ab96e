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

// The same of q, k and v in one tensor: (batch, seqlen, 3, heads, head_dim) when heads_q is 0, and else
// (batch, seqlen, heads_q + 2 * heads_kv, head_dim). Three views made by torch's dispatcher cost more than
// all the rest.
constexpr char kFwdQkvpackedSchema[] =
    "fwd_qkvpacked(Tensor qkv, float softmax_scale, bool causal, int heads_q) -> (Tensor out, Tensor lse)";
fa3_status run_fwd_qkvpacked(StableIValue* stack, Error error);

// In the order of how often they are given: each costs its caller a fifth of a microsecond, and a default
// less than half of that.
#define FA3_GENERAL_ARGUMENTS                                                                             \
    "Tensor q, Tensor k, Tensor v, float softmax_scale, bool causal, Tensor? cu_seqlens_q=None, "         \
    "Tensor? cu_seqlens_k=None, SymInt max_seqlen_q=0, SymInt max_seqlen_k=0, int window_left=-1, "       \
    "int window_right=-1, Tensor? sink=None, float softcap=0.0, int attention_chunk=0, int sm_margin=0, " \
    "Tensor? seqused_q=None, Tensor? seqused_k=None, Tensor? page_table=None"
constexpr char kFwdGeneralSchema[] = "fwd_general(" FA3_GENERAL_ARGUMENTS ") -> (Tensor out, Tensor lse)";
fa3_status run_fwd_general(StableIValue* stack, Error error);

constexpr char kFwdIntoSchema[] = "fwd_into(Tensor(a!) out, " FA3_GENERAL_ARGUMENTS ") -> Tensor lse";
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
