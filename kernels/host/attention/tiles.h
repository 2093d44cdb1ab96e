// Division of the query rows of an attention call into tiles.
#pragma once

#include <stdint.h>

#include "attention/mask.h"
#include "attention/problem.h"
#include "params/tiles.h"
#include "system/device.h"
#include "system/error.h"

namespace fa3 {

// What a kernel can do with a tile.
struct TileShape {
    uint32_t rows;           // of queries
    uint32_t value_columns;  // of v and out; more are computed by further tiles
    bool packs_gqa;          // the query heads of a key head can share a tile
    uint32_t box_rows;       // of the tensor map of q; 0 without tensor maps
};

// Fails when there are more tiles than a launch can number.
fa3_status divide_into_tiles(const Inputs& inputs, const Problem& problem, const ResolvedMask& mask,
                             const TileShape& shape, const Device& device, TileParams* tiles, Error error);

}  // namespace fa3
