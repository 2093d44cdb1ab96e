#include "torch/sequences.h"

#include "torch/checks.h"

namespace fa3 {

fa3_status read_array(const TorchTensor& tensor, int32_t torch_dtype, const char* dimensions, int64_t count,
                      const void** address, Error error) {
    if (!tensor.is_present()) return FA3_OK;
    int64_t* sizes = nullptr;
    int64_t* strides = nullptr;
    void* data = nullptr;
    fa3_status status = check_dtype(tensor, torch_dtype, error);
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
    *address = count == 0 ? kNoElements : data;
    return FA3_OK;
}

fa3_status SequenceTensors::read(const fa3_tensor& q, const fa3_tensor& k, fa3_sequences* sequences,
                                 Error error) const {
    const int32_t index = aoti_torch_dtype_int32();
    fa3_status status = read_batch(q, &sequences->batch, error);
    if (status != FA3_OK) return status;
    const int64_t batch = sequences->batch;
    const struct {
        const TorchTensor& tensor;
        const char* dimensions;
        int64_t count;
        const int32_t** address;
    } arrays[] = {
        {cu_seqlens_q, "(batch + 1,)", batch + 1, &sequences->cu_seqlens_q},
        {cu_seqlens_k, "(batch + 1,)", batch + 1, &sequences->cu_seqlens_k},
        {seqused_q, "(batch,)", batch, &sequences->seqused_q},
        {seqused_k, "(batch,)", batch, &sequences->seqused_k},
    };
    for (const auto& array : arrays) {
        const void* address = nullptr;
        status = read_array(array.tensor, index, array.dimensions, array.count, &address, error);
        if (status != FA3_OK) return status;
        *array.address = static_cast<const int32_t*>(address);
    }
    return page_table.is_present() ? read_page_table(k, sequences, error) : FA3_OK;
}

fa3_status SequenceTensors::read_batch(const fa3_tensor& q, int32_t* batch, Error error) const {
    if (!cu_seqlens_q.is_present()) {
        *batch = batch_of(q);
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
    *batch = static_cast<int32_t>(sizes[0] - 1);
    return FA3_OK;
}

fa3_status SequenceTensors::read_page_table(const fa3_tensor& k, fa3_sequences* sequences,
                                            Error error) const {
    int64_t* sizes = nullptr;
    int64_t* strides = nullptr;
    void* data = nullptr;
    fa3_status status = check_dtype(page_table, aoti_torch_dtype_int32(), error);
    if (status == FA3_OK) status = page_table.shape(2, "(batch, columns)", &sizes, &strides, error);
    if (status == FA3_OK) status = page_table.data(&data, error);
    if (status != FA3_OK) return status;
    if (sizes[0] != sequences->batch) {
        return error.fail(FA3_INVALID_ARGUMENT, "page_table has batch %lld; it should be %d, as in %s",
                          shown(sizes[0]), sequences->batch,
                          cu_seqlens_q.is_present() ? "cu_seqlens_q" : "q");
    }
    if (sizes[1] > 1 && strides[1] != 1) {
        return error.fail(FA3_INVALID_ARGUMENT, "page_table has last stride %lld; it should be 1",
                          shown(strides[1]));
    }
    sequences->page_table = static_cast<const int32_t*>(sizes[0] == 0 || sizes[1] == 0 ? kNoElements : data);
    sequences->page_table_stride = sizes[0] > 1 ? strides[0] : 0;
    // A product above the largest length is refused as a length.
    const int64_t page_size = k.shape[1] > INT32_MAX ? INT32_MAX : k.shape[1];
    const int64_t columns = sizes[1] > INT32_MAX ? INT32_MAX : sizes[1];
    const int64_t seqlen = columns * page_size;
    sequences->max_seqlen_k = static_cast<int32_t>(seqlen > INT32_MAX ? INT32_MAX : seqlen);
    return FA3_OK;
}

}  // namespace fa3
