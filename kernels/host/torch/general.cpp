// The operators with options: flash_attn3::fwd_general and fwd_into, and the shorter fwd_masked and
// fwd_varlen.
#include <string.h>

#include "attention/check.h"
#include "torch/call.h"
#include "torch/checks.h"
#include "torch/operators.h"

namespace fa3 {
namespace {

// Of fwd_general.
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
};

// An array without elements may have no address, and none of it is read: this one says that it was given.
void* const kNoElements = reinterpret_cast<void*>(kCopyAlignment);

// The address of a contiguous array of `count` elements; it stays null when the tensor is not there.
template <typename Element>
fa3_status read_array(const TorchTensor& tensor, int32_t dtype, const char* dimensions, int64_t count,
                      const Element** address, Error error) {
    if (!tensor.is_present()) return FA3_OK;
    int64_t* sizes = nullptr;
    int64_t* strides = nullptr;
    void* data = nullptr;
    fa3_status status = check_dtype(tensor, dtype, error);
    if (status == FA3_OK) status = tensor.shape(1, dimensions, &sizes, &strides, error);
    if (status == FA3_OK) status = tensor.data(&data, error);
    if (status != FA3_OK) return status;
    if (sizes[0] != count) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s has %lld elements; it should have %lld: %s",
                          tensor.argument(), shown(sizes[0]), shown(count), dimensions);
    }
    if (count > 1 && strides[0] != 1) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s has stride %lld; it should be contiguous",
                          tensor.argument(), shown(strides[0]));
    }
    *address = static_cast<const Element*>(count == 0 ? kNoElements : data);
    return FA3_OK;
}

// A call with everything that may be given beside q, k and v.
struct GeneralCall : FwdCall {
    TorchTensor cu_seqlens_q;
    TorchTensor cu_seqlens_k;
    TorchTensor seqused_q;
    TorchTensor seqused_k;
    TorchTensor page_table;
    TorchTensor sink;

    explicit GeneralCall(const StableIValue* stack, StableIValue given_out = 0)
        : FwdCall(stack[kQ], stack[kK], stack[kV], take_double(stack[kSoftmaxScale]), given_out),
          cu_seqlens_q(TorchTensor::optional("cu_seqlens_q", stack[kCuSeqlensQ])),
          cu_seqlens_k(TorchTensor::optional("cu_seqlens_k", stack[kCuSeqlensK])),
          seqused_q(TorchTensor::optional("seqused_q", stack[kSequsedQ])),
          seqused_k(TorchTensor::optional("seqused_k", stack[kSequsedK])),
          page_table(TorchTensor::optional("page_table", stack[kPageTable])),
          sink(TorchTensor::optional("sink", stack[kSink])) {}

    // As far as ranks go, slots are dense.
    Storage storage_q() const { return cu_seqlens_q.is_present() ? Storage::kPacked : Storage::kDense; }
    Storage storage_k() const {
        return page_table.is_present()     ? Storage::kPages
               : cu_seqlens_k.is_present() ? Storage::kPacked
                                           : Storage::kDense;
    }

    fa3_status read_numbers(const StableIValue* stack, Error error) {
        args.softcap = static_cast<float>(as_double(stack[kSoftcap]));
        const struct {
            Slot slot;
            const char* argument;
            int32_t least;
            int32_t* number;
        } numbers[] = {
            {kMaxSeqlenQ, "max_seqlen_q", 0, &args.max_seqlen_q},
            {kMaxSeqlenK, "max_seqlen_k", 0, &args.max_seqlen_k},
            {kWindowLeft, "window_left", INT32_MIN, &args.window_left},
            {kWindowRight, "window_right", INT32_MIN, &args.window_right},
            {kAttentionChunk, "attention_chunk", 0, &args.attention_chunk},
        };
        fa3_status status = read_scalars(stack[kCausal], stack[kSmMargin], error);
        for (const auto& entry : numbers) {
            if (status == FA3_OK)
                status = read_int(stack[entry.slot], entry.argument, entry.least, entry.number, error);
        }
        return status;
    }

    fa3_status read_batch(Error error) {
        if (!cu_seqlens_q.is_present()) {
            args.batch = batch_of(args.q);
            return FA3_OK;
        }
        int64_t* sizes = nullptr;
        int64_t* strides = nullptr;
        if (fa3_status status = cu_seqlens_q.shape(1, "(batch + 1,)", &sizes, &strides, error);
            status != FA3_OK) {
            return status;
        }
        if (sizes[0] < 1 || sizes[0] > INT32_MAX) {
            return error.fail(FA3_INVALID_ARGUMENT, "cu_seqlens_q has %lld elements; it should have 1 to %d",
                              shown(sizes[0]), INT32_MAX);
        }
        args.batch = static_cast<int32_t>(sizes[0] - 1);
        return FA3_OK;
    }

    fa3_status read_arrays(Error error) {
        const int32_t index = aoti_torch_dtype_int32();
        const int64_t batch = args.batch;
        fa3_status status =
            read_array(cu_seqlens_q, index, "(batch + 1,)", batch + 1, &args.cu_seqlens_q, error);
        if (status == FA3_OK)
            status = read_array(cu_seqlens_k, index, "(batch + 1,)", batch + 1, &args.cu_seqlens_k, error);
        if (status == FA3_OK)
            status = read_array(seqused_q, index, "(batch,)", batch, &args.seqused_q, error);
        if (status == FA3_OK)
            status = read_array(seqused_k, index, "(batch,)", batch, &args.seqused_k, error);
        if (status == FA3_OK)
            status =
                read_array(sink, aoti_torch_dtype_float32(), "(heads,)", args.q.shape[2], &args.sink, error);
        return status == FA3_OK && page_table.is_present() ? read_page_table(error) : status;
    }

    fa3_status read_page_table(Error error) {
        int64_t* sizes = nullptr;
        int64_t* strides = nullptr;
        void* data = nullptr;
        fa3_status status = check_dtype(page_table, aoti_torch_dtype_int32(), error);
        if (status == FA3_OK) status = page_table.shape(2, "(batch, columns)", &sizes, &strides, error);
        if (status == FA3_OK) status = page_table.data(&data, error);
        if (status != FA3_OK) return status;
        if (sizes[0] != args.batch) {
            return error.fail(FA3_INVALID_ARGUMENT, "page_table has batch %lld; it should be %d, as in %s",
                              shown(sizes[0]), args.batch, cu_seqlens_q.is_present() ? "cu_seqlens_q" : "q");
        }
        if (sizes[1] > 1 && strides[1] != 1) {
            return error.fail(FA3_INVALID_ARGUMENT, "page_table has last stride %lld; it should be 1",
                              shown(strides[1]));
        }
        args.page_table = static_cast<const int32_t*>(sizes[0] == 0 || sizes[1] == 0 ? kNoElements : data);
        args.page_table_stride = sizes[0] > 1 ? strides[0] : 0;
        // More than the largest length is refused as that is.
        const int64_t page_size = args.k.shape[1] > INT32_MAX ? INT32_MAX : args.k.shape[1];
        const int64_t columns = sizes[1] > INT32_MAX ? INT32_MAX : sizes[1];
        const int64_t seqlen = columns * page_size;
        args.max_seqlen_k = static_cast<int32_t>(seqlen > INT32_MAX ? INT32_MAX : seqlen);
        return FA3_OK;
    }

    // Everything up to the output.
    fa3_status prepare(const StableIValue* stack, Problem* problem, Error error) {
        fa3_status status = read_tensors(storage_q(), storage_k(), error);
        if (status == FA3_OK) status = read_numbers(stack, error);
        if (status == FA3_OK) status = read_batch(error);
        if (status == FA3_OK) status = read_arrays(error);
        if (status != FA3_OK) return status;
        *problem = describe(args);
        status = check_problem(args, *problem, error);
        if (status == FA3_OK) {
            status = check_devices(
                q, {&k, &v, &cu_seqlens_q, &cu_seqlens_k, &seqused_q, &seqused_k, &page_table, &sink, &out},
                error);
        }
        return status == FA3_OK ? make_readable(*problem, error) : status;
    }
};

// An operator whose options follow on the slots before `end`: what it lacks of those in between is 0, which
// is the default of each.
fa3_status run_shorter(StableIValue* stack, Slot end, Error error) {
    StableIValue general[kSlots] = {};
    memcpy(general, stack, end * sizeof(StableIValue));
    memcpy(general + kWindowLeft, stack + end, (kSlots - kWindowLeft) * sizeof(StableIValue));
    const fa3_status status = run_fwd_general(general, error);
    if (status == FA3_OK) memcpy(stack, general, kResults * sizeof(StableIValue));
    return status;
}

}  // namespace

fa3_status run_fwd_masked(StableIValue* stack, Error error) { return run_shorter(stack, kCuSeqlensQ, error); }

fa3_status run_fwd_varlen(StableIValue* stack, Error error) { return run_shorter(stack, kSequsedQ, error); }

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
    if (status == FA3_OK) status = check_output_shape(call.args, problem, error);
    // The tensor copy engine writes rows in whole steps of 16 bytes, and what lies behind a shorter one is
    // not ours; and slots of q and out must be the same number of rows apart.
    const bool odd = call.args.v.shape[3] % kCopyElements != 0;
    if (status == FA3_OK && !odd) status = check_output(call.args, problem, error);
    const bool by_way_of_copy = status == FA3_OK && (odd || !call.can_share_slots_with_out(problem));
    TorchTensor given("out");
    if (by_way_of_copy) {
        given.swap(call.out);
        status = call.allocate_out(problem, error);
    }
    if (status == FA3_OK) status = call.launch(problem, error);
    if (status == FA3_OK && by_way_of_copy) status = given.copy_from(call.out, error);
    if (status != FA3_OK) return status;
    stack[0] = call.lse.release();
    return FA3_OK;
}

}  // namespace fa3
