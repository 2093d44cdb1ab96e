// The tensors of a call that describe its sequences.
#pragma once

#include "torch/tensor.h"

namespace fa3 {

// The address of an array without elements, which may have none. It is not read, and marks the array as
// given.
inline void* const kNoElements = reinterpret_cast<void*>(kCopyAlignment);

// The number of sequences in a tensor whose sequences are not packed.
inline int32_t batch_of(const fa3_tensor& tensor) {
    return tensor.shape[0] < INT32_MAX ? static_cast<int32_t>(tensor.shape[0]) : INT32_MAX;
}

// Reads a contiguous array of `count` elements; `address` keeps its value when the tensor is absent.
fa3_status read_array(const TorchTensor& tensor, int32_t torch_dtype, const char* dimensions, int64_t count,
                      const void** address, Error error);

struct SequenceTensors {
    TorchTensor cu_seqlens_q;
    TorchTensor cu_seqlens_k;
    TorchTensor seqused_q;
    TorchTensor seqused_k;
    TorchTensor page_table;

    // For ranks alone: slots count as dense.
    Storage storage_q() const { return cu_seqlens_q.is_present() ? Storage::kPacked : Storage::kDense; }
    Storage storage_k() const {
        return page_table.is_present()     ? Storage::kPages
               : cu_seqlens_k.is_present() ? Storage::kPacked
                                           : Storage::kDense;
    }

    // Fills everything but the lengths that the caller gives as numbers; max_seqlen_k of pages follows from
    // the table.
    fa3_status read(const fa3_tensor& q, const fa3_tensor& k, fa3_sequences* sequences, Error error) const;

  private:
    fa3_status read_batch(const fa3_tensor& q, int32_t* batch, Error error) const;
    fa3_status read_page_table(const fa3_tensor& k, fa3_sequences* sequences, Error error) const;
};

}  // namespace fa3
