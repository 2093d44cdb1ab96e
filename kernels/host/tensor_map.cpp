#include "tensor_map.h"

#include "layout.h"

namespace fa3 {
namespace {

constexpr uint32_t kBoxColumns = 64;  // 128 bytes, the swizzle's width

// (batch, seqlen, heads, head_dim) -> the engine's order, fastest dimension first: (head_dim, seqlen, heads,
// batch).
constexpr int kOrder[kRank] = {3, 1, 2, 0};

}  // namespace

fa3_status encode_tensor_map(const cuda::Driver& driver, const fa3_tensor& tensor, const char* argument,
                             fa3_dtype dtype, uint32_t box_rows, void* spare, TensorMap* map, Error error) {
    const bool empty = is_empty(tensor);
    uint64_t extents[kRank];
    uint64_t byte_strides[kRank - 1];
    for (int i = 0; i < kRank; ++i) {
        const int source = kOrder[i];
        const int64_t extent = empty && i > 0 ? 1 : tensor.shape[source];
        extents[i] = static_cast<uint64_t>(extent);
        // The stride of a dimension of extent 1 is never used, but it must be legal.
        if (i > 0) {
            byte_strides[i - 1] =
                static_cast<uint64_t>(extent == 1 ? kCopyAlignment : tensor.stride[source] * kElementBytes);
        }
    }
    const uint32_t box[kRank] = {kBoxColumns, box_rows, 1, 1};
    const uint32_t element_strides[kRank] = {1, 1, 1, 1};
    const int type = dtype == FA3_FP16 ? cuda::kTensorFloat16 : cuda::kTensorBfloat16;
    const cuda::Result result = driver.tensor_map_encode_tiled(
        map, type, kRank, empty ? spare : tensor.data, extents, byte_strides, box, element_strides,
        cuda::kInterleaveNone, cuda::kSwizzle128B, cuda::kL2Promotion256B, cuda::kFillZeros);
    if (result == cuda::kSuccess) return FA3_OK;
    Text call;
    call.append("cuTensorMapEncodeTiled for %s", argument);
    return driver.fail(result, call.data, error);
}

}  // namespace fa3
