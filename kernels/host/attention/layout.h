// The layout of tensors in memory: names of dimensions, storage of sequences, and what the tensor copy engine
// (TMA) can read and write.
#pragma once

#include <stdint.h>

#include "attention/dtype.h"
#include "system/error.h"

namespace fa3 {

enum Dimension { kBatch, kSeqlen, kHeads, kHeadDim };
constexpr int kRank = 4;
constexpr int64_t kCopyAlignment = 16;  // bytes, of the base and of every stride of a tensor that TMA reads

// Elements in one step of the alignment.
inline int64_t copy_elements(int32_t dtype) { return kCopyAlignment / info_of(dtype).bytes; }

// How sequences lie in a tensor.
enum class Storage {
    kDense,   // one batch entry each, all rows in use
    kPacked,  // one after another: the tensor has batch 1
    kSlots,   // one batch entry each, some rows in use
    kPages,   // in pages, whose rows need not all be in use
};

// The name of a dimension in error messages.
const char* dimension_name(Storage storage, int dimension);

bool is_empty(const fa3_tensor& tensor);

// A known dtype, sizes that fit the parameters of a kernel, and a head_dim that is not 0.
fa3_status check_extents(const fa3_tensor& tensor, Storage storage, const char* argument, Error error);

// Of a result: no two elements at one address.
fa3_status check_room(const fa3_tensor& tensor, Storage storage, const char* argument, Error error);

// Geometry of a ragged tensor: the greatest common step of its rows and slots (or pages) in elements, and how
// many of these steps lie between rows and between slots (0 when there is one slot).
struct Steps {
    int64_t unit;
    int64_t row;
    int64_t slot;
};

Steps steps_of(const fa3_tensor& tensor);

// False when slots are no whole number of rows apart. Dense and packed tensors have no slots.
bool has_whole_rows(const fa3_tensor& tensor, Storage storage);

// Rows from one slot to the next, in a tensor with whole rows; 0 where there are none. A kernel takes one such
// number for q and out.
int64_t rows_per_slot(const fa3_tensor& tensor, Storage storage);

fa3_status check_whole_rows(const fa3_tensor& tensor, Storage storage, const char* argument, Error error);

// See fa3_check_layout.
fa3_status check_layout(const fa3_tensor& tensor, Storage storage, const char* argument, Error error);

}  // namespace fa3
