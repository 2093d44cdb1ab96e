// The operators combine and combine_into.
#include "ops/combine_check.h"
#include "torch/checks.h"
#include "torch/dtypes.h"
#include "torch/registry.h"
#include "torch/stack.h"

namespace fa3 {
namespace {

enum Slot { kOutPartial, kLsePartial, kOutDtype, kGivenOut = kOutDtype };
constexpr int64_t kMaxLseRank = 4;

// Strides of a (..., seqlen, heads) tensor with contiguous positions.
void set_transposed_strides(int64_t rank, const int64_t* shape, int64_t* strides) {
    strides[rank - 2] = 1;
    strides[rank - 1] = shape[rank - 2];
    int64_t step = shape[rank - 2] * shape[rank - 1];
    for (int64_t i = rank - 3; i >= 0; --i) {
        strides[i] = step;
        step *= shape[i];
    }
}

struct CombineCall {
    TorchTensor out_partial;
    TorchTensor lse_partial;
    TorchTensor out;
    TorchTensor lse{"lse"};
    Storage storage = Storage::kDense;
    int64_t* sizes = nullptr;  // of out_partial
    fa3_combine_args args = {};

    explicit CombineCall(const StableIValue* stack, StableIValue given_out = 0)
        : out_partial("out_partial", stack[kOutPartial]),
          lse_partial("lse_partial", stack[kLsePartial]),
          out("out", given_out) {
        args.struct_size = sizeof(args);
        args.device = out_partial.device_index();
        if (out_partial.rank() == kRank) storage = Storage::kPacked;
    }

    fa3_status read_out_partial(Error error) {
        const bool packed = storage == Storage::kPacked;
        const char* dimensions =
            packed ? "(splits, total, heads, head_dim)" : "(splits, batch, seqlen, heads, head_dim)";
        int64_t* strides = nullptr;
        fa3_status status = check_dtype(out_partial, aoti_torch_dtype_float32(), error);
        if (status == FA3_OK)
            status = out_partial.shape(rank_of(storage) + 1, dimensions, &sizes, &strides, error);
        if (status == FA3_OK) status = out_partial.data(&args.out_partial.data, error);
        if (status != FA3_OK) return status;
        args.splits = sizes[0] < INT32_MAX ? static_cast<int32_t>(sizes[0]) : INT32_MAX;
        args.out_partial_stride = strides[0];
        set_extents(storage, sizes + 1, strides + 1, &args.out_partial);
        args.out_partial.dtype = FA3_FP32;
        return FA3_OK;
    }

    // `seqlen_stride`: the stride that the kernel takes to be 1.
    fa3_status read_lse_partial(int64_t* seqlen_stride, Error error) {
        const bool packed = storage == Storage::kPacked;
        const int64_t rank = rank_of(storage);
        const char* dimensions = packed ? "(splits, total, heads)" : "(splits, batch, seqlen, heads)";
        int64_t* lse_sizes = nullptr;
        int64_t* strides = nullptr;
        void* data = nullptr;
        fa3_status status = check_dtype(lse_partial, aoti_torch_dtype_float32(), error);
        if (status == FA3_OK) status = lse_partial.shape(rank, dimensions, &lse_sizes, &strides, error);
        if (status == FA3_OK) status = lse_partial.data(&data, error);
        if (status != FA3_OK) return status;
        for (int64_t i = 0; i < rank; ++i) {
            if (lse_sizes[i] == sizes[i]) continue;
            return error.fail(
                FA3_INVALID_ARGUMENT,
                "lse_partial has size %lld in dimension %lld; it should be %lld, as in out_partial: %s",
                shown(lse_sizes[i]), shown(i), shown(sizes[i]), dimensions);
        }
        args.lse_partial = static_cast<const float*>(data);
        args.lse_partial_stride[0] = strides[0];
        args.lse_partial_stride[1] = packed ? 0 : strides[1];
        args.lse_partial_stride[2] = strides[rank - 1];
        *seqlen_stride = lse_sizes[rank - 2] > 1 ? strides[rank - 2] : 1;
        return FA3_OK;
    }

    fa3_status copy_out_partial(Error error) {
        TorchTensor copy(out_partial.argument());
        fa3_status status =
            copy.allocate_rows(rank_of(storage) + 1, sizes, 1, out_partial.dtype(), out_partial, error);
        if (status == FA3_OK) status = out_partial.move_to(copy, error);
        return status == FA3_OK ? read_out_partial(error) : status;
    }

    fa3_status copy_lse_partial(Error error) {
        TorchTensor copy(lse_partial.argument());
        int64_t strides[kMaxLseRank];
        int64_t seqlen_stride = 0;
        set_transposed_strides(rank_of(storage), sizes, strides);
        fa3_status status =
            copy.allocate(rank_of(storage), sizes, strides, lse_partial.dtype(), lse_partial, error);
        if (status == FA3_OK) status = lse_partial.move_to(copy, error);
        return status == FA3_OK ? read_lse_partial(&seqlen_stride, error) : status;
    }

    // Everything up to out, whose dtype is in the arguments.
    fa3_status prepare(Error error) {
        int64_t seqlen_stride = 0;
        fa3_status status = read_out_partial(error);
        if (status == FA3_OK) status = read_lse_partial(&seqlen_stride, error);
        if (status == FA3_OK) status = check_parts(args, error);
        if (status == FA3_OK) status = check_devices(out_partial, {&lse_partial, &out}, error);
        if (status == FA3_OK && args.out_partial.stride[kHeadDim] != 1 &&
            args.out_partial.shape[kHeadDim] > 1)
            status = copy_out_partial(error);
        if (status == FA3_OK && seqlen_stride != 1) status = copy_lse_partial(error);
        return status;
    }

    // The dtype of the caller's out.
    fa3_status read_out_dtype(Error error) {
        args.out.dtype = dtype_of_torch(out.dtype());
        if (args.out.dtype >= 0) return FA3_OK;
        Text got;
        append_dtype(got, out.dtype());
        return error.fail(FA3_INVALID_ARGUMENT, "out has dtype %s; it should be float32, float16 or bfloat16",
                          got.data);
    }

    // With out in the arguments: allocates lse and launches.
    fa3_status launch(Error error) {
        const int64_t rank = rank_of(storage) - 1;
        const int64_t* shape = sizes + 1;
        int64_t strides[kMaxLseRank];
        set_transposed_strides(rank, shape, strides);
        fa3_status status =
            lse.allocate(rank, shape, strides, aoti_torch_dtype_float32(), out_partial, error);
        if (status == FA3_OK) status = lse.data(reinterpret_cast<void**>(&args.lse), error);
        if (status == FA3_OK) status = current_stream(args.device, &args.stream, error);
        return status == FA3_OK ? fa3_combine(&args, error.text, error.size) : status;
    }
};

fa3_status run_combine(StableIValue* stack, Error error) {
    CombineCall call(stack);
    fa3_status status = read_int(stack[kOutDtype], "out_dtype", INT32_MIN, &call.args.out.dtype, error);
    if (status == FA3_OK) status = call.prepare(error);
    if (status == FA3_OK) {
        const int32_t dtype = torch_dtype_of(call.args.out.dtype);
        status =
            call.out.allocate_rows(rank_of(call.storage), call.sizes + 1, 1, dtype, call.out_partial, error);
    }
    if (status == FA3_OK) status = call.out.view(call.storage, &call.args.out, error);
    if (status == FA3_OK) status = call.launch(error);
    if (status != FA3_OK) return status;
    stack[kOut] = call.out.release();
    stack[kLse] = call.lse.release();
    return FA3_OK;
}

fa3_status run_combine_into(StableIValue* stack, Error error) {
    CombineCall call(stack, stack[kGivenOut]);
    fa3_status status = call.read_out_dtype(error);
    if (status == FA3_OK) status = call.prepare(error);
    if (status == FA3_OK) status = call.out.view(call.storage, &call.args.out, error);
    if (status == FA3_OK) status = call.launch(error);
    if (status == FA3_OK) stack[0] = call.lse.release();
    return status;
}

// out_dtype is a fa3_dtype: torch 2.11 passes AOTInductor programs another ScalarType than was exported.
const Registration registration{
    operator_record<run_combine>(
        "combine(Tensor out_partial, Tensor lse_partial, int out_dtype) -> (Tensor out, Tensor lse)"),
    operator_record<run_combine_into>(
        "combine_into(Tensor out_partial, Tensor lse_partial, Tensor(a!) out) -> Tensor lse"),
};

}  // namespace
}  // namespace fa3
