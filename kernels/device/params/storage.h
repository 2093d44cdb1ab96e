// How the rows of sequences and pages lie in q, out (`_q`) and in k, v (`_k`).
#pragma once

#include "params/integers.h"

namespace fa3 {

struct StorageParams {
    fa3_i32 ragged_q;  // 1: the tensor maps are ragged
    fa3_i32 ragged_k;
    fa3_i32 rows_per_batch_q;  // ragged, not packed: rows from one sequence to the next
    fa3_i32 page_size;
    fa3_i32 page_table_stride;  // pages from one sequence to the next
};

}  // namespace fa3
