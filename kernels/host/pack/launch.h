// Launches of a call.
#pragma once

#include <stdint.h>

#include <initializer_list>

#include "pack/pack.h"
#include "params/tile_queue.h"
#include "system/device.h"
#include "system/driver.h"

namespace fa3 {

// Where a call runs.
struct Target {
    const cuda::Driver* driver;
    Device* device;
    const Pack* pack;
};

fa3_status find_target(int32_t ordinal, Target* target, Error error);

struct Launch {
    const Record* kernel;
    uint32_t blocks;         // 0: nothing to launch
    void* params;            // the one structure that the kernel takes
    bool overlaps_previous;  // programmatic dependent launch: the kernel waits for the previous launch itself
};

// The queue of the next launch of a persistent kernel on `stream`. Needs the context of the device current.
fa3_status take_queue(const cuda::Driver& driver, Device& device, cuda::Stream stream, TileQueue** queue,
                      Error error);

// Enqueues the launches in order. All kernels are loaded before the first launch, so that a failure to load
// enqueues nothing. Needs the context of the device current.
fa3_status launch_all(const Target& target, std::initializer_list<Launch> launches, cuda::Stream stream,
                      Error error);

// Blocks of a persistent kernel: no more than are resident at once. `sm_margin` multiprocessors stay free.
uint32_t resident_blocks(const Device& device, const Record& kernel, int32_t sm_margin, int64_t work_items);

}  // namespace fa3
