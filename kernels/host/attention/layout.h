// Which tensors the tensor copy engine (TMA) can read and write.
#pragma once

#include <stdint.h>

#include "system/error.h"

namespace fa3 {

enum Dimension { kBatch, kSeqlen, kHeads, kHeadDim };
constexpr int kRank = 4;
constexpr int64_t kElementBytes = 2;    // of every dtype of this library
constexpr int64_t kCopyAlignment = 16;  // bytes, of the base and of every stride
constexpr int64_t kCopyElements = kCopyAlignment / kElementBytes;

// How sequences lie in a tensor.
enum class Storage {
    kDense,   // each fills its rows
    kPacked,  // one after another: the tensor has batch 1
    kSlots,   // each in rows of its own that it need not fill
    kPages,   // cut into pages, which they need not fill
};

// What the dimensions of a tensor are called in a message.
const char* dimension_name(Storage storage, int dimension);

bool is_empty(const fa3_tensor& tensor);

// Sizes that a launch can be told, and a head_dim that is not 0.
fa3_status check_extents(const fa3_tensor& tensor, Storage storage, const char* argument, Error error);

// Of a result: no two elements in one place.
fa3_status check_room(const fa3_tensor& tensor, Storage storage, const char* argument, Error error);

// How the rows of a ragged tensor are reached: a step in elements, and how many steps lead from one slot or
// page to the next (0 when there is one only).
struct Rows {
    int64_t stride;
    int64_t per_slot;
};

// False when no whole number of rows leads from one slot to the next.
bool find_rows(const fa3_tensor& tensor, Rows* rows);

// From one slot or page to the next, in a tensor that passed check_layout; 0 where there are none. A kernel
// has one such number for q and out, and one for k and v.
int64_t rows_per_slot(const fa3_tensor& tensor, Storage storage);

// See fa3_check_layout. Storage other than dense needs slots that are whole rows apart.
fa3_status check_layout(const fa3_tensor& tensor, Storage storage, const char* argument, Error error);

}  // namespace fa3
