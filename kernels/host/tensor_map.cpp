#include "tensor_map.h"

namespace fa3 {
namespace {

constexpr uint32_t kMapRank = 5;
constexpr uint32_t kBoxColumns = 64;                // 128 bytes, the swizzle's width
constexpr uint64_t kRaggedExtent = (1u << 31) - 1;  // of origins and wraps: any that a kernel can name

// Fastest dimension first.
struct Geometry {
    uint64_t extents[kMapRank];
    uint64_t byte_strides[kMapRank - 1];
};

// The stride of a dimension of extent 1 is never used, but it must be legal.
uint64_t byte_stride(const fa3_tensor& tensor, int dimension) {
    return static_cast<uint64_t>(tensor.shape[dimension] <= 1 ? kCopyAlignment
                                                              : tensor.stride[dimension] * kElementBytes);
}

uint64_t extent(const fa3_tensor& tensor, int dimension) {
    return static_cast<uint64_t>(tensor.shape[dimension]);
}

// The strides of an empty tensor are not checked, so they are not used either.
Geometry empty_geometry(const fa3_tensor& tensor, Storage storage) {
    if (storage == Storage::kDense) {
        return {{extent(tensor, 3), 1, 1, 1, 1},
                {kCopyAlignment, kCopyAlignment, kCopyAlignment, kCopyAlignment}};
    }
    return {{extent(tensor, 3), 1, kRaggedRows, kRaggedExtent, kRaggedExtent},
            {kCopyAlignment, kCopyAlignment, kCopyAlignment, kRaggedWrapBytes - kCopyAlignment}};
}

Geometry dense_geometry(const fa3_tensor& tensor) {
    return {{extent(tensor, 3), extent(tensor, 2), extent(tensor, 1), 1, extent(tensor, 0)},
            {byte_stride(tensor, 2), byte_stride(tensor, 1), kCopyAlignment, byte_stride(tensor, 0)}};
}

Geometry ragged_geometry(const fa3_tensor& tensor) {
    Rows rows;
    find_rows(tensor, &rows);
    const uint64_t row = static_cast<uint64_t>(rows.stride * kElementBytes);
    return {{extent(tensor, 3), extent(tensor, 2), kRaggedRows, kRaggedExtent, kRaggedExtent},
            {byte_stride(tensor, 2), row, row, kRaggedWrapBytes - row}};
}

}  // namespace

fa3_status encode_tensor_map(const cuda::Driver& driver, const fa3_tensor& tensor, Storage storage,
                             const char* argument, fa3_dtype dtype, Box box, void* spare, TensorMap* map,
                             Error error) {
    const bool empty = is_empty(tensor);
    const Geometry geometry = empty                        ? empty_geometry(tensor, storage)
                              : storage == Storage::kDense ? dense_geometry(tensor)
                                                           : ragged_geometry(tensor);
    const uint32_t box_extents[kMapRank] = {kBoxColumns, box.heads, box.rows, 1, 1};
    const uint32_t element_strides[kMapRank] = {1, 1, 1, 1, 1};
    const int type = dtype == FA3_FP16 ? cuda::kTensorFloat16 : cuda::kTensorBfloat16;
    const cuda::Result result = driver.tensor_map_encode_tiled(
        map, type, kMapRank, empty ? spare : tensor.data, geometry.extents, geometry.byte_strides,
        box_extents, element_strides, cuda::kInterleaveNone, cuda::kSwizzle128B, cuda::kL2Promotion256B,
        cuda::kFillZeros);
    if (result == cuda::kSuccess) return FA3_OK;
    Text call;
    call.append("cuTensorMapEncodeTiled for %s", argument);
    return driver.fail(result, call.data, error);
}

}  // namespace fa3
