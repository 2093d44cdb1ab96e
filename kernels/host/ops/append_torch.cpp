// The operators append and append_rotating.
#include "ops/append_check.h"
#include "torch/checks.h"
#include "torch/dtypes.h"
#include "torch/registry.h"
#include "torch/sequences.h"
#include "torch/stack.h"

namespace fa3 {
namespace {

// Slots of append_rotating; append has those before kQ.
enum Slot {
    kKCache,
    kVCache,
    kK,
    kV,
    kCacheSeqlens,
    kCacheBatchIdx,
    kPageTable,
    kCuSeqlensNew,
    kRotaryCos,
    kRotarySin,
    kRotarySeqlens,
    kRotaryInterleaved,
    kQ,
    kCuSeqlensQ,
    kQAdvances,
};

// Where append_rotating leaves its results.
enum AppendResult { kSeqlens, kRotated };

struct AppendCall {
    TorchTensor k_cache;
    TorchTensor v_cache;
    TorchTensor k;
    TorchTensor v;
    TorchTensor cache_seqlens;
    TorchTensor cache_batch_idx;
    TorchTensor page_table;
    TorchTensor cu_seqlens_new;
    TorchTensor rotary_cos;
    TorchTensor rotary_sin;
    TorchTensor rotary_seqlens;
    TorchTensor q;
    TorchTensor cu_seqlens_q;
    TorchTensor seqlens{"seqlens"};
    TorchTensor rotated{"rotated"};
    fa3_append_args args = {};

    AppendCall(const StableIValue* stack, bool with_q)
        : k_cache("k_cache", stack[kKCache]),
          v_cache("v_cache", stack[kVCache]),
          k("k", stack[kK]),
          v("v", stack[kV]),
          cache_seqlens("cache_seqlens", stack[kCacheSeqlens]),
          cache_batch_idx(TorchTensor::optional("cache_batch_idx", stack[kCacheBatchIdx])),
          page_table(TorchTensor::optional("page_table", stack[kPageTable])),
          cu_seqlens_new(TorchTensor::optional("cu_seqlens_k_new", stack[kCuSeqlensNew])),
          rotary_cos(TorchTensor::optional("rotary_cos", stack[kRotaryCos])),
          rotary_sin(TorchTensor::optional("rotary_sin", stack[kRotarySin])),
          rotary_seqlens(TorchTensor::optional("rotary_seqlens", stack[kRotarySeqlens])),
          q("q", with_q ? stack[kQ] : 0),
          cu_seqlens_q(TorchTensor::optional("cu_seqlens_q", with_q ? stack[kCuSeqlensQ] : 0)) {
        args.struct_size = sizeof(args);
        args.device = k_cache.device_index();
        args.rotary.interleaved = as_bool(stack[kRotaryInterleaved]) ? 1 : 0;
        args.rotary.q_advances = with_q && as_bool(stack[kQAdvances]) ? 1 : 0;
    }

    fa3_status check_dtypes(Error error) {
        if (k_cache.dtype() != aoti_torch_dtype_float16() && k_cache.dtype() != aoti_torch_dtype_bfloat16()) {
            Text got;
            append_dtype(got, k_cache.dtype());
            return error.fail(FA3_INVALID_ARGUMENT, "k_cache has dtype %s; it should be float16 or bfloat16",
                              got.data);
        }
        for (const TorchTensor* tensor : {&v_cache, &k, &v, &rotary_cos, &rotary_sin, &q}) {
            if (!tensor->is_present()) continue;
            const fa3_status status = check_dtype(*tensor, k_cache.dtype(), error);
            if (status != FA3_OK) return status;
        }
        return FA3_OK;
    }

    fa3_status read_batch(Error error) {
        int64_t* sizes = nullptr;
        int64_t* strides = nullptr;
        const fa3_status status = cache_seqlens.shape(1, "(batch,)", &sizes, &strides, error);
        if (status != FA3_OK) return status;
        if (sizes[0] >= INT32_MAX) {
            return error.fail(FA3_INVALID_ARGUMENT, "cache_seqlens has %lld elements; it should have less than %d",
                              shown(sizes[0]), INT32_MAX);
        }
        args.batch = static_cast<int32_t>(sizes[0]);
        return FA3_OK;
    }

    fa3_status read_arrays(Error error) {
        const struct {
            const TorchTensor& tensor;
            const char* dimensions;
            int64_t count;
            const int32_t** address;
        } arrays[] = {
            {cache_seqlens, "(batch,)", args.batch, &args.cache_seqlens},
            {cache_batch_idx, "(batch,)", args.batch, &args.cache_batch_idx},
            {cu_seqlens_new, "(batch + 1,)", int64_t{args.batch} + 1, &args.cu_seqlens_new},
            {rotary_seqlens, "(batch,)", args.batch, &args.rotary.first_positions},
            {cu_seqlens_q, "(batch + 1,)", int64_t{args.batch} + 1, &args.cu_seqlens_q},
        };
        for (const auto& array : arrays) {
            const void* address = nullptr;
            const fa3_status status = read_array(array.tensor, aoti_torch_dtype_int32(), array.dimensions,
                                                 array.count, &address, error);
            if (status != FA3_OK) return status;
            *array.address = static_cast<const int32_t*>(address);
        }
        return page_table.is_present() ? read_page_table(error) : FA3_OK;
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
            return error.fail(FA3_INVALID_ARGUMENT, "page_table has batch %lld; it should be %d, as in cache_seqlens",
                              shown(sizes[0]), args.batch);
        }
        if (sizes[1] > 1 && strides[1] != 1) {
            return error.fail(FA3_INVALID_ARGUMENT, "page_table has last stride %lld; it should be 1",
                              shown(strides[1]));
        }
        args.page_table = static_cast<const int32_t*>(sizes[0] == 0 || sizes[1] == 0 ? kNoElements : data);
        args.page_table_stride = sizes[0] > 1 ? strides[0] : 0;
        args.page_table_columns = static_cast<int32_t>(sizes[1] > INT32_MAX ? INT32_MAX : sizes[1]);
        return FA3_OK;
    }

    fa3_status read_table(const TorchTensor& table, const void** address, int64_t* sizes, int64_t* stride,
                          Error error) {
        int64_t* of_table = nullptr;
        int64_t* strides = nullptr;
        void* data = nullptr;
        fa3_status status = table.shape(2, "(positions, rotary_dim / 2)", &of_table, &strides, error);
        if (status == FA3_OK) status = table.data(&data, error);
        if (status != FA3_OK) return status;
        if (of_table[1] > 1 && strides[1] != 1) {
            return error.fail(FA3_INVALID_ARGUMENT, "%s has last stride %lld; it should be 1", table.argument(),
                              shown(strides[1]));
        }
        sizes[0] = of_table[0];
        sizes[1] = of_table[1];
        *stride = of_table[0] > 1 ? strides[0] : 0;
        *address = of_table[0] == 0 || of_table[1] == 0 ? kNoElements : data;
        return FA3_OK;
    }

    fa3_status read_rotary(Error error) {
        if (!rotary_cos.is_present() || !rotary_sin.is_present()) {
            if (rotary_cos.is_present() == rotary_sin.is_present()) return FA3_OK;
            return error.fail(FA3_INVALID_ARGUMENT, "%s is missing; it should be given with the other table",
                              rotary_cos.is_present() ? "rotary_sin" : "rotary_cos");
        }
        int64_t cosines[2];
        int64_t sines[2];
        fa3_rotary& rotary = args.rotary;
        fa3_status status = read_table(rotary_cos, &rotary.cosines, cosines, &rotary.stride_cosines, error);
        if (status == FA3_OK)
            status = read_table(rotary_sin, &rotary.sines, sines, &rotary.stride_sines, error);
        if (status != FA3_OK) return status;
        if (cosines[0] != sines[0] || cosines[1] != sines[1]) {
            return error.fail(FA3_INVALID_ARGUMENT,
                              "rotary_sin has shape (%lld, %lld); it should be (%lld, %lld), as rotary_cos",
                              shown(sines[0]), shown(sines[1]), shown(cosines[0]), shown(cosines[1]));
        }
        rotary.positions = static_cast<int32_t>(cosines[0] > INT32_MAX ? INT32_MAX : cosines[0]);
        rotary.columns = static_cast<int32_t>(cosines[1] > INT32_MAX / 2 ? INT32_MAX - 1 : 2 * cosines[1]);
        return FA3_OK;
    }

    fa3_status read_tensors(Error error) {
        const Storage of_cache = page_table.is_present() ? Storage::kPages : Storage::kSlots;
        const Storage of_new = cu_seqlens_new.is_present() ? Storage::kPacked : Storage::kDense;
        const Storage of_q = cu_seqlens_q.is_present() ? Storage::kPacked : Storage::kDense;
        fa3_status status = k_cache.view(of_cache, &args.k_cache, error);
        if (status == FA3_OK) status = v_cache.view(of_cache, &args.v_cache, error);
        if (status == FA3_OK) status = k.view(of_new, &args.k, error);
        if (status == FA3_OK) status = v.view(of_new, &args.v, error);
        if (status == FA3_OK && q.is_present()) status = q.view(of_q, &args.q, error);
        return status;
    }

    // Everything up to the results.
    fa3_status prepare(Error error) {
        fa3_status status = check_dtypes(error);
        if (status == FA3_OK) status = read_tensors(error);
        if (status == FA3_OK) status = read_batch(error);
        if (status == FA3_OK) status = read_arrays(error);
        if (status == FA3_OK) status = read_rotary(error);
        if (status == FA3_OK) status = check_append_shapes(args, error);
        if (status == FA3_OK) {
            status = check_devices(k_cache,
                                   {&v_cache, &k, &v, &cache_seqlens, &cache_batch_idx, &page_table,
                                    &cu_seqlens_new, &rotary_cos, &rotary_sin, &rotary_seqlens, &q, &cu_seqlens_q},
                                   error);
        }
        if (status == FA3_OK) status = copy_if_apart(k, storage_of_new(args), &args.k, error);
        if (status == FA3_OK) status = copy_if_apart(v, storage_of_new(args), &args.v, error);
        if (status == FA3_OK && q.is_present()) status = copy_if_apart(q, storage_of_q(args), &args.q, error);
        return status;
    }

    // Copies a tensor whose rows are not contiguous.
    static fa3_status copy_if_apart(TorchTensor& tensor, Storage storage, fa3_tensor* view, Error error) {
        const bool apart = view->stride[kHeadDim] != 1 && view->shape[kHeadDim] > 1;
        return apart ? tensor.make_readable(storage, view, error) : FA3_OK;
    }

    fa3_status allocate(Error error) {
        const int64_t batch = args.batch;
        fa3_status status = seqlens.allocate_rows(1, &batch, 1, aoti_torch_dtype_int32(), k_cache, error);
        if (status == FA3_OK) status = seqlens.data(reinterpret_cast<void**>(&args.seqlens), error);
        if (status != FA3_OK || !q.is_present()) return status;
        const Storage storage = storage_of_q(args);
        const int64_t rank = rank_of(storage);
        status = rotated.allocate_rows(rank, args.q.shape + kRank - rank, copy_elements(args.q.dtype), q.dtype(),
                                       q, error);
        return status == FA3_OK ? rotated.view(storage, &args.q_out, error) : status;
    }

    fa3_status launch(Error error) {
        fa3_status status = prepare(error);
        if (status == FA3_OK) status = allocate(error);
        if (status == FA3_OK) status = current_stream(args.device, &args.stream, error);
        return status == FA3_OK ? fa3_append(&args, error.text, error.size) : status;
    }
};

fa3_status run_append(StableIValue* stack, Error error) {
    AppendCall call(stack, /*with_q=*/false);
    const fa3_status status = call.launch(error);
    if (status == FA3_OK) stack[kSeqlens] = call.seqlens.release();
    return status;
}

fa3_status run_append_rotating(StableIValue* stack, Error error) {
    AppendCall call(stack, /*with_q=*/true);
    const fa3_status status = call.launch(error);
    if (status != FA3_OK) return status;
    stack[kSeqlens] = call.seqlens.release();
    stack[kRotated] = call.rotated.release();
    return FA3_OK;
}

#define FA3_APPEND_ARGUMENTS                                                                                   \
    "Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor k, Tensor v, Tensor cache_seqlens, "                       \
    "Tensor? cache_batch_idx, Tensor? page_table, Tensor? cu_seqlens_k_new, Tensor? rotary_cos, "              \
    "Tensor? rotary_sin, Tensor? rotary_seqlens, bool rotary_interleaved"

const Registration registration{
    operator_record<run_append>("append(" FA3_APPEND_ARGUMENTS ") -> Tensor seqlens"),
    // Rotates q, too.
    operator_record<run_append_rotating>("append_rotating(" FA3_APPEND_ARGUMENTS
                                         ", Tensor q, Tensor? cu_seqlens_q, bool q_advances) "
                                         "-> (Tensor seqlens, Tensor rotated)"),
};

#undef FA3_APPEND_ARGUMENTS

}  // namespace
}  // namespace fa3
