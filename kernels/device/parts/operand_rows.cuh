// Addresses of the rows of a sequence in a tensor.
#pragma once

#include "params/operand.h"
#include "parts/work_item.cuh"

namespace fa3 {

// First row of a sequence, head 0. `start`: its row in a packed tensor.
template <class Element>
CUTE_DEVICE Element* sequence_rows(Operand const& operand, int batch, bool packed, int start) {
    return static_cast<Element*>(operand.data) + batch * operand.stride_batch +
           (packed ? start * operand.stride_row : 0);
}

// Keys or values of one head, from a column on.
template <class Element>
struct KeyRows {
    Element const* data;  // first row of the sequence; with pages, of page 0
    int columns;          // that exist from there on
};

// Of the work item's sequence and head. `columns`: of the tensor.
template <class Element>
CUTE_DEVICE KeyRows<Element> key_rows(SequenceParams const& sequences, SizeParams const& sizes, Operand const& operand,
                                      WorkItem const& item, int first_column, int columns) {
    int const head = item.head / (sizes.heads_q / sizes.heads_kv);
    auto const* const first = sequence_rows<Element const>(operand, sequences.page_table ? 0 : item.batch,
                                                           sequences.cu_seqlens_k != nullptr, item.start_k);
    return {first + head * operand.stride_head + first_column, columns - first_column};
}

}  // namespace fa3
