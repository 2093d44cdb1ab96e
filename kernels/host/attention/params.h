// The parts of kernel parameters that attention operators share.
#pragma once

#include "attention/problem.h"
#include "params/operand.h"
#include "params/scale.h"
#include "params/sequences.h"
#include "params/sizes.h"
#include "params/storage.h"
#include "params/tensor_map.h"

namespace fa3 {

SequenceParams sequence_params(const Inputs& inputs);
ScaleParams scale_params(const Inputs& inputs);
SizeParams size_params(const Problem& problem);
StorageParams storage_params(const Inputs& inputs, const Problem& problem);

// Of k or v; 0 for a dense tensor.
MapSteps map_steps(const fa3_tensor& tensor, Storage storage);

Operand operand(const fa3_tensor& tensor, Storage storage);

// Of a contiguous LSE with the rows of q.
LseOperand lse_operand(float* data, const Problem& problem);

// Rows in a box of the tensor maps of k and v: `rows`, or less so that no box spans two pages.
uint32_t box_rows_of_keys(const Inputs& inputs, const Problem& problem, uint32_t rows);

}  // namespace fa3
