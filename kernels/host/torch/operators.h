// The operators, as functions on the stack that torch hands over: arguments in, results out. Each owns the
// tensors on the stack from its first line, and puts its results there when it succeeds.
#pragma once

#include "system/error.h"
#include "torch/shim.h"

namespace fa3 {

// An argument costs its caller a fifth of a microsecond, and a default less than half of that: so there are
// operators for the common calls, and one for every call.
#define FA3_OPERANDS "Tensor q, Tensor k, Tensor v, float? softmax_scale, bool causal"
#define FA3_OPTIONS                                                                                          \
    "int window_left=-1, int window_right=-1, Tensor? sink=None, float softcap=0.0, int attention_chunk=0, " \
    "int sm_margin=0"

// Dense, with a full or causal mask: the call that most programs make, kept free of what the others need.
constexpr char kFwdSchema[] = "fwd(" FA3_OPERANDS ", int sm_margin=0) -> (Tensor out, Tensor lse)";
fa3_status run_fwd(StableIValue* stack, Error error);

// The same of q, k and v in one tensor: (batch, seqlen, 3, heads, head_dim) when heads_q is 0, and else
// (batch, seqlen, heads_q + 2 * heads_kv, head_dim). Three views made by torch's dispatcher cost more than
// all the rest.
constexpr char kFwdQkvpackedSchema[] =
    "fwd_qkvpacked(Tensor qkv, float? softmax_scale, bool causal, int heads_q) -> (Tensor out, Tensor lse)";
fa3_status run_fwd_qkvpacked(StableIValue* stack, Error error);

// Dense, with options.
constexpr char kFwdMaskedSchema[] =
    "fwd_masked(" FA3_OPERANDS ", " FA3_OPTIONS ") -> (Tensor out, Tensor lse)";
fa3_status run_fwd_masked(StableIValue* stack, Error error);

// Packed sequences, in q or k or both, with options.
constexpr char kFwdVarlenSchema[] =
    "fwd_varlen(" FA3_OPERANDS
    ", Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt max_seqlen_q, SymInt max_seqlen_k, " FA3_OPTIONS
    ") -> (Tensor out, Tensor lse)";
fa3_status run_fwd_varlen(StableIValue* stack, Error error);

// Everything.
#define FA3_GENERAL_ARGUMENTS                                                                                \
    FA3_OPERANDS                                                                                             \
    ", Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, SymInt max_seqlen_q=0, SymInt max_seqlen_k=0, " \
    "Tensor? seqused_q=None, Tensor? seqused_k=None, Tensor? page_table=None, " FA3_OPTIONS
constexpr char kFwdGeneralSchema[] = "fwd_general(" FA3_GENERAL_ARGUMENTS ") -> (Tensor out, Tensor lse)";
fa3_status run_fwd_general(StableIValue* stack, Error error);

constexpr char kFwdIntoSchema[] = "fwd_into(Tensor(a!) out, " FA3_GENERAL_ARGUMENTS ") -> Tensor lse";
fa3_status run_fwd_into(StableIValue* stack, Error error);
#undef FA3_GENERAL_ARGUMENTS
#undef FA3_OPTIONS
#undef FA3_OPERANDS

// The dtype is a fa3_dtype: as a ScalarType, torch 2.11 hands a program of AOTInductor another one than was
// exported.
#define FA3_COMBINE_ARGUMENTS "Tensor out_partial, Tensor lse_partial"
constexpr char kCombineSchema[] =
    "combine(" FA3_COMBINE_ARGUMENTS ", int out_dtype) -> (Tensor out, Tensor lse)";
fa3_status run_combine(StableIValue* stack, Error error);

constexpr char kCombineIntoSchema[] = "combine_into(" FA3_COMBINE_ARGUMENTS ", Tensor(a!) out) -> Tensor lse";
fa3_status run_combine_into(StableIValue* stack, Error error);
#undef FA3_COMBINE_ARGUMENTS

}  // namespace fa3
