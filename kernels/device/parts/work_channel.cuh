// Work items handed to the consumers through shared memory, and the overflow flags that the consumers write back.
//
// A consumer warp whose softmax overflows (`parts/steady_softmax.cuh`) sets its flag in the slot of the work item. The
// producer reads the flags before it reuses the slot, and hands out the item a second time, to be recomputed.
#pragma once

#include "arch/sm90/pipeline.cuh"
#include "parts/warp.cuh"
#include "parts/work_item.cuh"

namespace fa3 {

template <int ConsumerWarps>
struct WorkSlot {
    WorkItem item;
    bool recompute;  // handed out for the second time
    bool overflow[ConsumerWarps];
    int first_key;  // that any query of the sequence sees
};

// The functions below take a kernel's shared memory, `Storage`, with members
//   Pipeline<2> work_pipe;
//   WorkSlot<ConsumerWarps> work_slots[2];
// and are called by all lanes of the producer warp.

// Waits until the consumers are done with a slot. Returns whether its item overflowed, and clears the flags.
template <class Storage>
CUTE_DEVICE bool take_overflow(Storage& smem, Cursor<2> at) {
    constexpr int kConsumerWarps = sizeof(smem.work_slots[0].overflow);
    smem.work_pipe.wait_empty(at);
    int const lane = cutlass::canonical_lane_idx();
    bool* const overflow = smem.work_slots[at.stage].overflow;
    if (!any_lane(lane < kConsumerWarps && overflow[lane])) return false;
    if (lane < kConsumerWarps) overflow[lane] = false;
    return true;
}

// The next content of slot `at`: its own item if that overflowed, else tile `index` of the order. Behind the last tile
// comes the item of the other slot, if that overflowed.
template <class Storage, class Order>
CUTE_DEVICE auto next_work(Storage& smem, Cursor<2> at, Order& order, int index) {
    using Slot = typename Storage::Slot;
    if (take_overflow(smem, at)) return Slot{smem.work_slots[at.stage].item, true};
    WorkItem const item = order.find(index);
    if (item.head >= 0) return Slot{item, false};
    at.advance();
    if (take_overflow(smem, at)) return Slot{smem.work_slots[at.stage].item, true};
    return Slot{item, false};
}

template <class Storage>
CUTE_DEVICE void publish_work(Storage& smem, Cursor<2> at, typename Storage::Slot const& slot) {
    __syncwarp();  // all lanes have read the old content
    if (cutlass::canonical_lane_idx() == 0) {
        smem.work_slots[at.stage] = slot;
        smem.work_pipe.publish(at);
    }
}

}  // namespace fa3
