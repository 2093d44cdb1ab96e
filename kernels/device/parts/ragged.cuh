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

CUTE_DEVICE MapOrigin map_origin(bool ragged, int start, int length, int batch) {
    if (!ragged) return {0, 0, batch};
    return {kRaggedRows - length, start + length, kRaggedRows};
}

}  // namespace fa3
