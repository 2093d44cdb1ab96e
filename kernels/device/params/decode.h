// Parameters of the decode kernels. Plain data: NVRTC compiles it for the GPU, the C++17 runtime for the CPU.
#pragma once

#include "params/mask.h"
#include "params/operand.h"
#include "params/scale.h"
#include "params/sequences.h"
#include "params/sizes.h"
#include "params/storage.h"
#include "params/tiles.h"

namespace fa3 {

// Results over parts of the keys, of units whose parts several thread blocks compute. A slot holds one unit.
struct PartialParams {
    float* out;        // (slots, parts, rows, columns of the kernel), not normalised
    float* sums;       // (slots, parts, rows, 2) reference of the scores, sum of the exponentials
    fa3_u32* arrived;  // (slots,) parts that are stored; 0 before and after every launch
    fa3_i32 parts;     // into which the keys of a unit are divided, at most
    fa3_i32 rows;      // of a unit, at most
    fa3_i32 slots;     // fewer than units: a unit takes the slot of the thread block that computes its first part
};

// Operands as in FwdParams, without tensor maps. `tiles`: pack_gqa and tiles_m alone.
struct DecodeParams {
    Operand q;
    Operand k;
    Operand v;
    Operand out;
    LseOperand lse;
    float const* sink;  // (h,) logits that join the denominator alone; null: none
    SequenceParams sequences;
    ScaleParams scale;
    MaskParams mask;
    SizeParams sizes;
    StorageParams storage;
    TileParams tiles;
    PartialParams partial;
};

}  // namespace fa3
