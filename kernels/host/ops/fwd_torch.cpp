// The operators of attention forward.
#include "ops/fwd_torch.h"

#include <math.h>
#include <string.h>

#include "attention/check.h"
#include "torch/checks.h"
#include "torch/registry.h"
#include "torch/sequences.h"
#include "torch/stack.h"

namespace fa3 {
namespace {

// Slots of fwd_general; those of fwd_into follow one slot of out.
enum Slot {
    kQ,
    kK,
    kV,
    kSoftmaxScale,
    kCausal,
    kCuSeqlensQ,
    kCuSeqlensK,
    kMaxSeqlenQ,
    kMaxSeqlenK,
    kSequsedQ,
    kSequsedK,
    kPageTable,
    kWindowLeft,
    kWindowRight,
    kSink,
    kSoftcap,
    kAttentionChunk,
    kSmMargin,
    kSlots,
    kSmMarginOfFwd = kCausal + 1,
};

// A kernel takes one number of rows from slot to slot for two tensors.
bool share_slots(const fa3_tensor& a, const fa3_tensor& b, Storage storage) {
    return rows_per_slot(a, storage) == rows_per_slot(b, storage);
}

fa3_status close_slots(TorchTensor& tensor, Storage storage, fa3_tensor* view, Error error) {
    if (rows_per_slot(*view, storage) == view->shape[1]) return FA3_OK;
    return tensor.make_readable(storage, view, error);
}

fa3_status copy_if_unreadable(TorchTensor& tensor, Storage storage, fa3_tensor* view, Error error) {
    if (check_layout(*view, storage, tensor.argument(), {nullptr, 0}) == FA3_OK) return FA3_OK;
    return tensor.make_readable(storage, view, error);
}

// The largest cache that is copied. A larger one is refused: its copy could take the memory that the rest of the
// program needs, and more time than attention.
constexpr int64_t kMaxCopiedCacheMiB = 16;

int64_t mebibytes(const fa3_tensor& tensor) {
    int64_t bytes = info_of(tensor.dtype).bytes;
    for (const int64_t extent : tensor.shape) bytes *= extent;
    return bytes >> 20;
}

// Of k or v. Slots and pages are caches, which are usually far larger than what a call reads of them.
fa3_status copy_unless_cache(TorchTensor& tensor, Storage storage, fa3_tensor* view, Error error) {
    const bool is_cache = storage == Storage::kSlots || storage == Storage::kPages;
    if (!is_cache || mebibytes(*view) < kMaxCopiedCacheMiB) {
        return copy_if_unreadable(tensor, storage, view, error);
    }
    Text reason;
    if (check_layout(*view, storage, tensor.argument(), {reason.data, sizeof(reason.data)}) == FA3_OK) {
        return FA3_OK;
    }
    return error.fail(FA3_INVALID_ARGUMENT, "%s; a cache of %lld MiB or more is not copied", reason.data,
                      shown(kMaxCopiedCacheMiB));
}

// A head_dim of 0 is refused later, by name.
double default_scale(int64_t head_dim) { return head_dim == 0 ? 1 : 1 / sqrt(static_cast<double>(head_dim)); }

}  // namespace

FwdCall::FwdCall(StableIValue given_q, StableIValue given_k, StableIValue given_v,
                 std::optional<double> given_scale, StableIValue given_out)
    : q("q", given_q), k("k", given_k), v("v", given_v), out("out", given_out), softmax_scale(given_scale) {
    args.struct_size = sizeof(args);
    args.mask.window_left = -1;
    args.mask.window_right = -1;
}

fa3_status FwdCall::read_tensors(Storage storage_q, Storage storage_k, Error error) {
    fa3_status status = q.view(storage_q, &args.q, error);
    if (status == FA3_OK) status = k.view(storage_k, &args.k, error);
    if (status == FA3_OK) status = v.view(storage_k, &args.v, error);
    if (status == FA3_OK) status = check_dtypes(q, {&k, &v}, error);
    args.device = q.device_index();
    args.scale.softmax_scale = static_cast<float>(softmax_scale.value_or(default_scale(args.q.shape[3])));
    return status;
}

fa3_status FwdCall::read_scalars(StableIValue causal, StableIValue sm_margin, Error error) {
    args.mask.causal = as_bool(causal) ? 1 : 0;
    return read_int(sm_margin, "sm_margin", 0, &args.sm_margin, error);
}

fa3_status FwdCall::make_readable(const Problem& problem, Error error) {
    const Storage of_k = problem.storage_k;
    fa3_status status = copy_if_unreadable(q, problem.storage_q, &args.q, error);
    if (status == FA3_OK && !has_whole_rows(args.q, problem.storage_q)) {
        status = q.make_readable(problem.storage_q, &args.q, error);
    }
    if (status == FA3_OK) status = copy_unless_cache(k, of_k, &args.k, error);
    return status == FA3_OK ? copy_unless_cache(v, of_k, &args.v, error) : status;
}

fa3_status FwdCall::allocate_out(const Problem& problem, Error error) {
    const int64_t shape[] = {args.q.shape[0], args.q.shape[1], args.q.shape[2], args.v.shape[3]};
    const int64_t rank = rank_of(problem.storage_q);
    const fa3_status status =
        out.allocate_rows(rank, shape + 4 - rank, copy_elements(args.q.dtype), q.dtype(), q, error);
    return status == FA3_OK ? out.view(problem.storage_q, &args.out, error) : status;
}

bool FwdCall::can_share_slots_with_out(const Problem& problem) const {
    return share_slots(args.out, args.q, problem.storage_q) ||
           rows_per_slot(args.out, problem.storage_q) == args.out.shape[1];
}

fa3_status FwdCall::allocate_workspace(Error error) {
    fa3_status status = fa3_fwd_workspace(&args, &args.workspace_size, error.text, error.size);
    if (status != FA3_OK || args.workspace_size == 0) return status;
    const int64_t bytes[] = {static_cast<int64_t>(args.workspace_size)};
    status = workspace.allocate_rows(1, bytes, 1, aoti_torch_dtype_uint8(), q, error);
    return status == FA3_OK ? workspace.data(&args.workspace, error) : status;
}

fa3_status FwdCall::launch(const Problem& problem, Error error) {
    fa3_status status = FA3_OK;
    if (!share_slots(args.out, args.q, problem.storage_q)) {
        status = close_slots(q, problem.storage_q, &args.q, error);
    }
    const int64_t shape[] = {args.q.shape[0], args.q.shape[2], args.q.shape[1]};
    const int64_t rank = rank_of(problem.storage_q) - 1;
    if (status == FA3_OK) {
        status = lse.allocate_rows(rank, shape + 3 - rank, 1, aoti_torch_dtype_float32(), q, error);
    }
    if (status == FA3_OK) status = lse.data(reinterpret_cast<void**>(&args.lse), error);
    if (status == FA3_OK && problem.has_few_rows()) status = allocate_workspace(error);
    if (status == FA3_OK) status = current_stream(args.device, &args.stream, error);
    return status == FA3_OK ? fa3_fwd(&args, error.text, error.size) : status;
}

void FwdCall::release(StableIValue* results) {
    results[kOut] = out.release();
    results[kLse] = lse.release();
}

fa3_status run_dense(FwdCall& call, StableIValue causal, StableIValue sm_margin, StableIValue* results,
                     Error error) {
    fa3_status status = call.read_tensors(Storage::kDense, Storage::kDense, error);
    if (status == FA3_OK) status = call.read_scalars(causal, sm_margin, error);
    if (status != FA3_OK) return status;

    call.args.sequences.batch = batch_of(call.args.q);
    const Inputs inputs = inputs_of(call.args);
    const Problem problem = problem_of(inputs);
    status = check_inputs(inputs, problem, error);
    if (status == FA3_OK) status = check_devices(call.q, {&call.k, &call.v}, error);
    if (status == FA3_OK) status = call.make_readable(problem, error);
    if (status == FA3_OK) status = call.allocate_out(problem, error);
    if (status == FA3_OK) status = call.launch(problem, error);
    if (status == FA3_OK) call.release(results);
    return status;
}

namespace {

// A call with every option.
struct GeneralCall : FwdCall {
    SequenceTensors sequences;
    TorchTensor sink;

    explicit GeneralCall(const StableIValue* stack, StableIValue given_out = 0)
        : FwdCall(stack[kQ], stack[kK], stack[kV], take_double(stack[kSoftmaxScale]), given_out),
          sequences{TorchTensor::optional("cu_seqlens_q", stack[kCuSeqlensQ]),
                    TorchTensor::optional("cu_seqlens_k", stack[kCuSeqlensK]),
                    TorchTensor::optional("seqused_q", stack[kSequsedQ]),
                    TorchTensor::optional("seqused_k", stack[kSequsedK]),
                    TorchTensor::optional("page_table", stack[kPageTable])},
          sink(TorchTensor::optional("sink", stack[kSink])) {}

    fa3_status read_numbers(const StableIValue* stack, Error error) {
        args.scale.softcap = static_cast<float>(as_double(stack[kSoftcap]));
        const struct {
            Slot slot;
            const char* argument;
            int32_t least;
            int32_t* number;
        } numbers[] = {
            {kMaxSeqlenQ, "max_seqlen_q", 0, &args.sequences.max_seqlen_q},
            {kMaxSeqlenK, "max_seqlen_k", 0, &args.sequences.max_seqlen_k},
            {kWindowLeft, "window_left", INT32_MIN, &args.mask.window_left},
            {kWindowRight, "window_right", INT32_MIN, &args.mask.window_right},
            {kAttentionChunk, "attention_chunk", 0, &args.mask.attention_chunk},
        };
        fa3_status status = read_scalars(stack[kCausal], stack[kSmMargin], error);
        for (const auto& entry : numbers) {
            if (status == FA3_OK)
                status = read_int(stack[entry.slot], entry.argument, entry.least, entry.number, error);
        }
        return status;
    }

    fa3_status read_sink(Error error) {
        const void* address = nullptr;
        const fa3_status status =
            read_array(sink, aoti_torch_dtype_float32(), "(heads,)", args.q.shape[2], &address, error);
        args.sink = static_cast<const float*>(address);
        return status;
    }

    // Everything up to out.
    fa3_status prepare(const StableIValue* stack, Problem* problem, Error error) {
        fa3_status status = read_tensors(sequences.storage_q(), sequences.storage_k(), error);
        if (status == FA3_OK) status = read_numbers(stack, error);
        if (status == FA3_OK) status = sequences.read(args.q, args.k, &args.sequences, error);
        if (status == FA3_OK) status = read_sink(error);
        if (status != FA3_OK) return status;
        const Inputs inputs = inputs_of(args);
        *problem = problem_of(inputs);
        status = check_inputs(inputs, *problem, error);
        if (status == FA3_OK) {
            status =
                check_devices(q,
                              {&k, &v, &sequences.cu_seqlens_q, &sequences.cu_seqlens_k, &sequences.seqused_q,
                               &sequences.seqused_k, &sequences.page_table, &sink, &out},
                              error);
        }
        return status == FA3_OK ? make_readable(*problem, error) : status;
    }
};

fa3_status run_fwd(StableIValue* stack, Error error) {
    FwdCall call(stack[kQ], stack[kK], stack[kV], take_double(stack[kSoftmaxScale]));
    return run_dense(call, stack[kCausal], stack[kSmMarginOfFwd], stack, error);
}

fa3_status run_fwd_general(StableIValue* stack, Error error) {
    GeneralCall call(stack);
    Problem problem;
    fa3_status status = call.prepare(stack, &problem, error);
    if (status == FA3_OK) status = call.allocate_out(problem, error);
    if (status == FA3_OK) status = call.launch(problem, error);
    if (status == FA3_OK) call.release(stack);
    return status;
}

fa3_status run_fwd_into(StableIValue* stack, Error error) {
    const StableIValue* behind_out = stack + 1;
    GeneralCall call(behind_out, stack[0]);
    Problem problem;
    fa3_status status = call.prepare(behind_out, &problem, error);
    if (status == FA3_OK) status = check_dtypes(call.q, {&call.out}, error);
    if (status == FA3_OK) status = call.out.view(problem.storage_q, &call.args.out, error);
    if (status == FA3_OK) status = check_output_shape(call.args.out, inputs_of(call.args), problem, error);
    // The tensor copy engine writes rows in whole steps of 16 bytes, and the bytes behind a shorter row are
    // the caller's. Slots of q and out must be the same number of rows apart.
    const bool odd = call.args.v.shape[3] % copy_elements(call.args.v.dtype) != 0;
    if (status == FA3_OK && !odd) status = check_output(call.args.out, inputs_of(call.args), problem, error);
    const bool through_copy = status == FA3_OK && (odd || !call.can_share_slots_with_out(problem));
    TorchTensor given("out");
    if (through_copy) {
        given.swap(call.out);
        status = call.allocate_out(problem, error);
    }
    if (status == FA3_OK) status = call.launch(problem, error);
    if (status == FA3_OK && through_copy) status = given.copy_from(call.out, error);
    if (status != FA3_OK) return status;
    stack[0] = call.lse.release();
    return FA3_OK;
}

// An operator without the slots from `end` to kWindowLeft. Their defaults are 0.
fa3_status run_shorter(StableIValue* stack, Slot end, Error error) {
    StableIValue general[kSlots] = {};
    memcpy(general, stack, end * sizeof(StableIValue));
    memcpy(general + kWindowLeft, stack + end, (kSlots - kWindowLeft) * sizeof(StableIValue));
    const fa3_status status = run_fwd_general(general, error);
    if (status == FA3_OK) memcpy(stack, general, kResults * sizeof(StableIValue));
    return status;
}

fa3_status run_fwd_masked(StableIValue* stack, Error error) { return run_shorter(stack, kCuSeqlensQ, error); }

fa3_status run_fwd_varlen(StableIValue* stack, Error error) { return run_shorter(stack, kSequsedQ, error); }

// An argument costs its caller a fifth of a microsecond, and a default less than half of that: so there are
// operators for the common calls, and one for every call.
#define FA3_OPERANDS "Tensor q, Tensor k, Tensor v, float? softmax_scale, bool causal"
#define FA3_OPTIONS                                                                                          \
    "int window_left=-1, int window_right=-1, Tensor? sink=None, float softcap=0.0, int attention_chunk=0, " \
    "int sm_margin=0"
#define FA3_GENERAL_ARGUMENTS                                                                                \
    FA3_OPERANDS                                                                                             \
    ", Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, SymInt max_seqlen_q=0, SymInt max_seqlen_k=0, " \
    "Tensor? seqused_q=None, Tensor? seqused_k=None, Tensor? page_table=None, " FA3_OPTIONS

const Registration registration{
    // Dense, with a full or causal mask: the call of most programs.
    operator_record<run_fwd>("fwd(" FA3_OPERANDS ", int sm_margin=0) -> (Tensor out, Tensor lse)"),
    // Dense, with options.
    operator_record<run_fwd_masked>("fwd_masked(" FA3_OPERANDS ", " FA3_OPTIONS
                                    ") -> (Tensor out, Tensor lse)"),
    // Packed sequences, in q or k or both, with options.
    operator_record<run_fwd_varlen>(
        "fwd_varlen(" FA3_OPERANDS
        ", Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt max_seqlen_q, SymInt max_seqlen_k, " FA3_OPTIONS
        ") -> (Tensor out, Tensor lse)"),
    operator_record<run_fwd_general>("fwd_general(" FA3_GENERAL_ARGUMENTS ") -> (Tensor out, Tensor lse)"),
    operator_record<run_fwd_into>("fwd_into(Tensor(a!) out, " FA3_GENERAL_ARGUMENTS ") -> Tensor lse"),
};

#undef FA3_GENERAL_ARGUMENTS
#undef FA3_OPTIONS
#undef FA3_OPERANDS

}  // namespace
}  // namespace fa3
