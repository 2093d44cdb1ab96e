// Boxes of the rows of a sequence, in a dense or a ragged map.
#pragma once

#include "parts/query_tiles.cuh"
#include "parts/ragged.cuh"

namespace fa3 {

CUTE_DEVICE MapOrigin box_origin(MapSteps const& map_steps, int batch, SequenceRows const& rows, bool ragged) {
    return ragged ? slot_origin(map_steps, batch, rows.start, rows.length) : MapOrigin{0, 0, batch};
}

}  // namespace fa3
