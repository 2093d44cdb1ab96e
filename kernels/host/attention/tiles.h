// How the work of an attention forward call is cut into tiles, and how many thread blocks take them.
#pragma once

#include <stdint.h>

#include "params/fwd.h"
#include "system/device.h"
#include "system/error.h"
#include "attention/mask.h"
#include "attention/problem.h"
#include "pack/pack.h"

namespace fa3 {

// Fills pack_gqa, pack_shift, value_slices, tiles_m, tiles and l2_heads.
fa3_status fill_tiles(const fa3_fwd_args& args, const Problem& problem, const FwdMask& mask,
                      const Kernel& kernel, FwdParams& params, Error error);

// Thread blocks of a launch: a kernel with a queue gets no more than run at once, any other a block a tile.
// In whole clusters.
uint32_t grid_size(const Device& device, const Kernel& kernel, int32_t sm_margin, int32_t tiles);

}  // namespace fa3
