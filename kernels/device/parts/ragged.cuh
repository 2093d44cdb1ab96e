// Tensor-map coordinates of the rows of a sequence. The maps: `params/tensor_map.h`.
#pragma once

#include <cute/config.hpp>

#include "params/tensor_map.h"

namespace fa3 {

// Coordinates 2, 3 and 4 of row 0 of a sequence.
struct MapOrigin {
    int row;
    int origin;
    int batch;  // of a ragged map: wraps
};

// Where origins step by whole rows. `start`: first row of the sequence.
CUTE_DEVICE MapOrigin map_origin(bool ragged, int start, int length, int batch) {
    if (!ragged) return {0, 0, batch};
    return {kRaggedRows - length, start + length, kRaggedRows};
}

// Row 0 of a sequence, or of a page, of a ragged map. `start`: its first row in a packed tensor.
CUTE_DEVICE MapOrigin slot_origin(MapSteps const& steps, int slot, int start, int length) {
    return {kRaggedRows - length, slot * steps.slot + (start + length) * steps.row, kRaggedRows};
}

}  // namespace fa3
