#include "attention/tensor_map.h"

#include <string.h>

namespace fa3 {
namespace {

constexpr uint32_t kMapRank = 5;
constexpr int64_t kBoxBytes = 128;                  // width of the swizzle
constexpr uint64_t kRaggedExtent = (1u << 31) - 1;  // of origins and wraps: any that a kernel can name

// Fastest dimension first.
struct Geometry {
    uint64_t extents[kMapRank];
    uint64_t byte_strides[kMapRank - 1];
};

// Everything that determines a map, without padding.
struct Description {
    void* address;
    Geometry geometry;
    uint32_t box[kMapRank];
    int32_t type;
    int32_t device;
    int32_t unused;
};
static_assert(sizeof(Description) == 112);

// Recent maps of this thread, in slots by address: encoding four maps takes the driver longer than the rest
// of a warm call. Cached maps lack the alignment of TensorMap, because the linker pads a library by a page
// where thread-local data are aligned more strictly than code.
struct CachedMap {
    Description description;
    unsigned char map[sizeof(TensorMap)];
};
constexpr int kCacheBits = 7;
thread_local CachedMap cache[1 << kCacheBits];

CachedMap& slot_of(const void* address) {
    constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15;
    return cache[reinterpret_cast<uint64_t>(address) * kGoldenRatio >> (64 - kCacheBits)];
}

// The stride of a dimension of extent 1 is not used, but it must be legal.
uint64_t byte_stride(const fa3_tensor& tensor, int dimension) {
    return static_cast<uint64_t>(tensor.shape[dimension] <= 1
                                     ? kCopyAlignment
                                     : tensor.stride[dimension] * info_of(tensor.dtype).bytes);
}

uint64_t extent(const fa3_tensor& tensor, int dimension) {
    return static_cast<uint64_t>(tensor.shape[dimension]);
}

// The strides of an empty tensor are not checked, and so not used.
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
    const Steps steps = steps_of(tensor);
    const uint64_t unit = static_cast<uint64_t>(steps.unit * info_of(tensor.dtype).bytes);
    const uint64_t row = unit * static_cast<uint64_t>(steps.row);
    return {{extent(tensor, 3), extent(tensor, 2), kRaggedRows, kRaggedExtent, kRaggedExtent},
            {byte_stride(tensor, 2), row, unit, kRaggedWrapBytes - row}};
}

}  // namespace

fa3_status encode_tensor_map(const cuda::Driver& driver, int32_t device, const fa3_tensor& tensor,
                             Storage storage, const char* argument, Box box, void* spare, TensorMap* map,
                             Error error) {
    const bool empty = is_empty(tensor);
    const Description wanted = {
        empty ? spare : tensor.data,
        empty                        ? empty_geometry(tensor, storage)
        : storage == Storage::kDense ? dense_geometry(tensor)
                                     : ragged_geometry(tensor),
        {static_cast<uint32_t>(kBoxBytes / info_of(tensor.dtype).bytes), box.heads, box.rows, 1, 1},
        info_of(tensor.dtype).tensor_map_type,
        device,
        0};
    CachedMap& cached = slot_of(wanted.address);
    if (memcmp(&cached.description, &wanted, sizeof(wanted)) == 0) {
        memcpy(map, cached.map, sizeof(*map));
        return FA3_OK;
    }
    constexpr uint32_t kElementStrides[kMapRank] = {1, 1, 1, 1, 1};
    const cuda::Result result = driver.tensor_map_encode_tiled(
        map, wanted.type, kMapRank, wanted.address, wanted.geometry.extents, wanted.geometry.byte_strides,
        wanted.box, kElementStrides, cuda::kInterleaveNone, cuda::kSwizzle128B, cuda::kL2Promotion256B,
        cuda::kFillZeros);
    if (result != cuda::kSuccess) {
        Text call;
        call.append("cuTensorMapEncodeTiled for %s", argument);
        return driver.fail(result, call.data, error);
    }
    cached.description = wanted;
    memcpy(cached.map, map, sizeof(*map));
    return FA3_OK;
}

}  // namespace fa3
