// The operators of attention backward.
#include <math.h>

#include "attention/check.h"
#include "ops/bwd.h"
#include "ops/bwd_check.h"
#include "torch/checks.h"
#include "torch/registry.h"
#include "torch/sequences.h"
#include "torch/stack.h"

namespace fa3 {
namespace {

// Slots of bwd; those of bwd_into follow three slots of gradients.
enum Slot {
    kDout,
    kQ,
    kK,
    kV,
    kOut,
    kLse,
    kDlse,
    kSoftmaxScale,
    kCausal,
    kCuSeqlensQ,
    kCuSeqlensK,
    kMaxSeqlenQ,
    kMaxSeqlenK,
    kSequsedQ,
    kSequsedK,
    kWindowLeft,
    kWindowRight,
    kSink,
    kSoftcap,
    kAttentionChunk,
    kDeterministic,
    kSmMargin,
};
enum Result { kDq, kDk, kDv, kDsink };
constexpr int kGivenGradients = 3;

// A gradient: the caller's tensor, and the one that the kernels write.
struct Gradient {
    TorchTensor given;
    TorchTensor written;

    explicit Gradient(const char* argument, StableIValue tensor = 0)
        : given(argument, tensor), written(argument) {}

    fa3_status allocate(Storage storage, const fa3_tensor& like, const TorchTensor& tensor, fa3_tensor* view,
                        Error error) {
        const int64_t rank = rank_of(storage);
        const fa3_status status = written.allocate_rows(rank, like.shape + kRank - rank,
                                                        copy_elements(like.dtype), tensor.dtype(), tensor, error);
        return status == FA3_OK ? written.view(storage, view, error) : status;
    }

    // The caller's tensor where the kernels can write to it, else a new one.
    fa3_status use_given(Storage storage, const fa3_tensor& like, const TorchTensor& tensor, fa3_tensor* view,
                         Error error) {
        const fa3_status status = given.view(storage, view, error);
        if (status != FA3_OK) return status;
        if (check_layout(*view, storage, given.argument(), {nullptr, 0}) == FA3_OK) {
            written.swap(given);
            return FA3_OK;
        }
        return allocate(storage, like, tensor, view, error);
    }

    fa3_status finish(Error error) {
        if (!given.is_present()) return FA3_OK;
        return given.copy_from(written, error);
    }
};

fa3_status copy_if_unreadable(TorchTensor& tensor, Storage storage, fa3_tensor* view, Error error) {
    if (check_layout(*view, storage, tensor.argument(), {nullptr, 0}) == FA3_OK) return FA3_OK;
    return tensor.make_readable(storage, view, error);
}

double default_scale(int64_t head_dim) { return head_dim == 0 ? 1 : 1 / sqrt(static_cast<double>(head_dim)); }

struct BwdCall {
    TorchTensor dout, q, k, v, out, lse, dlse;
    SequenceTensors sequences;
    TorchTensor sink;
    std::optional<double> softmax_scale;
    Gradient dq, dk, dv;
    TorchTensor dsink{"dsink"};
    TorchTensor workspace{"workspace"};
    fa3_bwd_args args = {};

    // Owns the tensors.
    explicit BwdCall(const StableIValue* stack, const StableIValue* gradients = nullptr)
        : dout("dout", stack[kDout]),
          q("q", stack[kQ]),
          k("k", stack[kK]),
          v("v", stack[kV]),
          out("out", stack[kOut]),
          lse("lse", stack[kLse]),
          dlse(TorchTensor::optional("dlse", stack[kDlse])),
          sequences{TorchTensor::optional("cu_seqlens_q", stack[kCuSeqlensQ]),
                    TorchTensor::optional("cu_seqlens_k", stack[kCuSeqlensK]),
                    TorchTensor::optional("seqused_q", stack[kSequsedQ]),
                    TorchTensor::optional("seqused_k", stack[kSequsedK]), TorchTensor("page_table")},
          sink(TorchTensor::optional("sink", stack[kSink])),
          softmax_scale(take_double(stack[kSoftmaxScale])),
          dq("dq", gradients == nullptr ? 0 : gradients[kDq]),
          dk("dk", gradients == nullptr ? 0 : gradients[kDk]),
          dv("dv", gradients == nullptr ? 0 : gradients[kDv]) {
        args.struct_size = sizeof(args);
        args.device = q.device_index();
    }

    fa3_status read_numbers(const StableIValue* stack, Error error) {
        args.mask.causal = as_bool(stack[kCausal]) ? 1 : 0;
        args.deterministic = as_bool(stack[kDeterministic]) ? 1 : 0;
        args.scale.softcap = static_cast<float>(as_double(stack[kSoftcap]));
        args.scale.softmax_scale =
            static_cast<float>(softmax_scale.value_or(default_scale(args.q.shape[kHeadDim])));
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
            {kSmMargin, "sm_margin", 0, &args.sm_margin},
        };
        fa3_status status = FA3_OK;
        for (const auto& entry : numbers) {
            if (status == FA3_OK)
                status = read_int(stack[entry.slot], entry.argument, entry.least, entry.number, error);
        }
        return status;
    }

    fa3_status read_views(Error error) {
        const Storage of_q = sequences.storage_q();
        const Storage of_k = sequences.storage_k();
        fa3_status status = q.view(of_q, &args.q, error);
        if (status == FA3_OK) status = k.view(of_k, &args.k, error);
        if (status == FA3_OK) status = v.view(of_k, &args.v, error);
        if (status == FA3_OK) status = out.view(of_q, &args.out, error);
        if (status == FA3_OK) status = dout.view(of_q, &args.dout, error);
        return status == FA3_OK ? check_dtypes(q, {&k, &v, &out, &dout}, error) : status;
    }

    // Of lse and dlse: (batch, heads, seqlen), or (heads, total).
    fa3_status read_rows(TorchTensor& tensor, Storage storage, const float** address, Error error) {
        if (!tensor.is_present()) return FA3_OK;
        const int64_t wanted[] = {args.q.shape[kBatch], args.q.shape[kHeads], args.q.shape[kSeqlen]};
        const int64_t rank = rank_of(storage) - 1;
        const char* dimensions = rank == 2 ? "(heads, total)" : "(batch, heads, seqlen)";
        int64_t* sizes = nullptr;
        int64_t* strides = nullptr;
        fa3_status status = check_dtype(tensor, aoti_torch_dtype_float32(), error);
        if (status == FA3_OK) status = tensor.shape(rank, dimensions, &sizes, &strides, error);
        if (status != FA3_OK) return status;
        bool contiguous = true;
        int64_t stride = 1;
        for (int64_t i = rank - 1; i >= 0; --i) {
            if (sizes[i] != wanted[i + 3 - rank]) {
                return error.fail(FA3_INVALID_ARGUMENT, "%s has size %lld in dimension %lld; it should be %lld: %s",
                                  tensor.argument(), shown(sizes[i]), shown(i), shown(wanted[i + 3 - rank]),
                                  dimensions);
            }
            contiguous = contiguous && (strides[i] == stride || sizes[i] == 1);
            stride *= sizes[i];
        }
        if (!contiguous) {
            TorchTensor copy(tensor.argument());
            status = copy.allocate_rows(rank, sizes, 1, tensor.dtype(), tensor, error);
            if (status == FA3_OK) status = tensor.move_to(copy, error);
        }
        void* data = nullptr;
        if (status == FA3_OK) status = tensor.data(&data, error);
        *address = static_cast<const float*>(data);
        return status;
    }

    fa3_status read_sink(Error error) {
        const void* address = nullptr;
        fa3_status status =
            read_array(sink, aoti_torch_dtype_float32(), "(heads,)", args.q.shape[kHeads], &address, error);
        args.sink = static_cast<const float*>(address);
        if (status != FA3_OK) return status;
        const int64_t heads[] = {sink.is_present() ? args.q.shape[kHeads] : 0};
        status = dsink.allocate_rows(1, heads, 1, aoti_torch_dtype_float32(), q, error);
        void* data = nullptr;
        if (status == FA3_OK) status = dsink.data(&data, error);
        args.dsink = static_cast<float*>(data);
        return status;
    }

    // Everything up to the gradients.
    fa3_status prepare(const StableIValue* stack, Problem* problem, Error error) {
        fa3_status status = read_views(error);
        if (status == FA3_OK) status = read_numbers(stack, error);
        if (status == FA3_OK) status = sequences.read(args.q, args.k, &args.sequences, error);
        if (status != FA3_OK) return status;
        *problem = problem_of(inputs_of(args));
        status = check_inputs(inputs_of(args), *problem, error);
        if (status == FA3_OK) {
            status = check_devices(q,
                                   {&k, &v, &out, &dout, &lse, &dlse, &sequences.cu_seqlens_q,
                                    &sequences.cu_seqlens_k, &sequences.seqused_q, &sequences.seqused_k, &sink,
                                    &dq.given, &dk.given, &dv.given},
                                   error);
        }
        if (status == FA3_OK) status = read_sink(error);
        if (status == FA3_OK) status = read_rows(lse, problem->storage_q, &args.lse, error);
        if (status == FA3_OK) status = read_rows(dlse, problem->storage_q, &args.dlse, error);
        const Storage of_q = problem->storage_q;
        const Storage of_k = problem->storage_k;
        if (status == FA3_OK) status = copy_if_unreadable(q, of_q, &args.q, error);
        if (status == FA3_OK) status = copy_if_unreadable(k, of_k, &args.k, error);
        if (status == FA3_OK) status = copy_if_unreadable(v, of_k, &args.v, error);
        if (status == FA3_OK) status = copy_if_unreadable(out, of_q, &args.out, error);
        return status == FA3_OK ? copy_if_unreadable(dout, of_q, &args.dout, error) : status;
    }

    // Runs `each(gradient, storage, model, tensor of the model, view)` for the three gradients.
    template <typename Each>
    fa3_status for_gradients(const Problem& problem, const Each& each) {
        fa3_status status = each(dq, problem.storage_q, args.q, q, &args.dq);
        if (status == FA3_OK) status = each(dk, problem.storage_k, args.k, k, &args.dk);
        return status == FA3_OK ? each(dv, problem.storage_k, args.v, v, &args.dv) : status;
    }

    fa3_status allocate_workspace(Error error) {
        size_t size = 0;
        fa3_status status = fa3_bwd_workspace(&args, &size, error.text, error.size);
        if (status != FA3_OK || size == 0) return status;
        const int64_t bytes[] = {static_cast<int64_t>(size)};
        status = workspace.allocate_rows(1, bytes, 1, aoti_torch_dtype_uint8(), q, error);
        if (status == FA3_OK) status = workspace.data(&args.workspace, error);
        args.workspace_size = size;
        return status;
    }

    fa3_status launch(Error error) {
        fa3_status status = allocate_workspace(error);
        if (status == FA3_OK) status = current_stream(args.device, &args.stream, error);
        return status == FA3_OK ? fa3_bwd(&args, error.text, error.size) : status;
    }
};

fa3_status run_bwd(StableIValue* stack, Error error) {
    BwdCall call(stack);
    Problem problem;
    fa3_status status = call.prepare(stack, &problem, error);
    if (status == FA3_OK) {
        status = call.for_gradients(problem, [&](Gradient& gradient, Storage storage, const fa3_tensor& model,
                                                 const TorchTensor& tensor, fa3_tensor* view) {
            return gradient.allocate(storage, model, tensor, view, error);
        });
    }
    if (status == FA3_OK) status = call.launch(error);
    if (status != FA3_OK) return status;
    stack[kDq] = call.dq.written.release();
    stack[kDk] = call.dk.written.release();
    stack[kDv] = call.dv.written.release();
    stack[kDsink] = call.dsink.release();
    return FA3_OK;
}

fa3_status run_bwd_into(StableIValue* stack, Error error) {
    const StableIValue* behind_gradients = stack + kGivenGradients;
    BwdCall call(behind_gradients, stack);
    Problem problem;
    fa3_status status = call.prepare(behind_gradients, &problem, error);
    if (status == FA3_OK)
        status = check_dtypes(call.q, {&call.dq.given, &call.dk.given, &call.dv.given}, error);
    if (status == FA3_OK) {
        status = call.for_gradients(problem, [&](Gradient& gradient, Storage storage, const fa3_tensor& model,
                                                 const TorchTensor& tensor, fa3_tensor* view) {
            return gradient.use_given(storage, model, tensor, view, error);
        });
    }
    if (status == FA3_OK) status = check_bwd_shapes(call.args, problem, error);
    if (status == FA3_OK) status = call.launch(error);
    if (status == FA3_OK) {
        status = call.for_gradients(problem, [&](Gradient& gradient, Storage, const fa3_tensor&,
                                                 const TorchTensor&, fa3_tensor*) {
            return gradient.finish(error);
        });
    }
    if (status != FA3_OK) return status;
    stack[0] = call.dsink.release();
    return FA3_OK;
}

#define FA3_BWD_ARGUMENTS                                                                                    \
    "Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor? dlse, float? softmax_scale, " \
    "bool causal, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, SymInt max_seqlen_q=0, "             \
    "SymInt max_seqlen_k=0, Tensor? seqused_q=None, Tensor? seqused_k=None, int window_left=-1, "            \
    "int window_right=-1, Tensor? sink=None, float softcap=0.0, int attention_chunk=0, "                     \
    "bool deterministic=False, int sm_margin=0"

const Registration registration{
    // dsink is empty without a sink.
    operator_record<run_bwd>("bwd(" FA3_BWD_ARGUMENTS ") -> (Tensor dq, Tensor dk, Tensor dv, Tensor dsink)"),
    operator_record<run_bwd_into>("bwd_into(Tensor(a!) dq, Tensor(b!) dk, Tensor(c!) dv, " FA3_BWD_ARGUMENTS
                                  ") -> Tensor dsink"),
};

#undef FA3_BWD_ARGUMENTS

}  // namespace
}  // namespace fa3
