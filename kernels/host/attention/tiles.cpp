#include "attention/tiles.h"

#include "attention/layout.h"

namespace fa3 {
namespace {

// Under a causal mask the longest tiles of several heads go first, and the K and V of these heads should stay
// in the L2. It has 50 MiB on the largest Hopper parts, but q, out and the two halves' copies of what both
// read take their share; and of short sequences fewer heads suffice to keep every multiprocessor busy.
constexpr int64_t kL2BytesForKv = 32 << 20;
constexpr int64_t kL2BytesForShortKv = 16 << 20;
constexpr int64_t kShortSeqlen = 1024;

// What a kernel's box of q can hold, one head beside the other.
constexpr int64_t kMaxHeadsPerBox = 64;

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

bool can_share_tiles(const Kernel& kernel, int64_t group) {
    if (!kernel.packs_gqa || group == 1) return false;
    if (!kernel.uses_tensor_maps()) return true;
    return group <= kMaxHeadsPerBox && (group & (group - 1)) == 0 && kernel.box_rows_q % group == 0;
}

// How many query heads share a tile: all that share a key head, where this leaves out a tenth of the tiles.
int64_t heads_per_tile(const Problem& problem, const Kernel& kernel) {
    const int64_t group = problem.heads_q / problem.heads_kv;
    if (!can_share_tiles(kernel, group)) return 1;
    const int64_t shared = ceil_div(problem.seqlen_q * group, kernel.tile_m);
    const int64_t apart = group * ceil_div(problem.seqlen_q, kernel.tile_m);
    return 10 * shared <= 9 * apart ? group : 1;
}

// Tiles of one head differ in work when their queries see ever more keys.
bool tiles_differ(const FwdMask& mask) {
    return mask.window_right >= 0 && mask.window_left < 0 && mask.attention_chunk == 0;
}

// The most up to `most` that divides `all`, unless that is half of it or less: behind sections of one size a short one
// would start its longest tiles when nothing is left that could run beside them.
int64_t even_section(int64_t all, int64_t most) {
    for (int64_t size = most; 2 * size > most; --size) {
        if (all % size == 0) return size;
    }
    return most;
}

// How many key heads are worked on together. One, where all tiles are alike: its tiles run at the same time
// and share what they read. Else as many as fit in the L2, at least one.
int64_t heads_in_l2(const fa3_fwd_args& args, const Problem& problem, const FwdMask& mask) {
    if (!tiles_differ(mask)) return 1;
    const int64_t all = problem.heads_kv * problem.batch;
    const int64_t bytes_per_head = problem.seqlen_k * (args.k.shape[3] + args.v.shape[3]) * kElementBytes;
    const int64_t bytes = problem.seqlen_k <= kShortSeqlen ? kL2BytesForShortKv : kL2BytesForKv;
    const int64_t fitting = bytes_per_head == 0 ? all : bytes / bytes_per_head;
    return fitting < 1 ? 1 : fitting > all ? all : even_section(all, fitting);
}

int32_t logarithm(int64_t power_of_two) {
    int32_t shift = 0;
    while ((int64_t{1} << (shift + 1)) <= power_of_two) ++shift;
    return shift;
}

}  // namespace

fa3_status fill_tiles(const fa3_fwd_args& args, const Problem& problem, const FwdMask& mask,
                      const Kernel& kernel, FwdParams& params, Error error) {
    const int64_t shared = heads_per_tile(problem, kernel);
    const int64_t slices = ceil_div(args.v.shape[3], kernel.slice_columns());
    const int64_t columns = problem.batch * (problem.heads_q / shared) * slices;
    const int64_t tiles_m = ceil_div(problem.seqlen_q * shared, kernel.tile_m);
    if (columns > INT32_MAX || tiles_m > INT32_MAX / columns) {
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "q has batch %lld, seqlen %lld and %lld heads, which is more than the %d tiles of %u "
            "positions that a launch can number",
            shown(problem.batch), shown(problem.seqlen_q), shown(problem.heads_q), INT32_MAX, kernel.tile_m);
    }
    const int64_t per_key_head = problem.heads_q / problem.heads_kv / shared * slices;
    params.pack_gqa = static_cast<int32_t>(shared);
    params.pack_shift = logarithm(shared);
    params.value_slices = static_cast<int32_t>(slices);
    params.tiles_m = static_cast<int32_t>(tiles_m);
    params.tiles = static_cast<int32_t>(tiles_m * columns);
    params.l2_heads = static_cast<int32_t>(heads_in_l2(args, problem, mask) * per_key_head);
    return FA3_OK;
}

uint32_t grid_size(const Device& device, const Kernel& kernel, int32_t sm_margin, int32_t tiles) {
    const uint32_t all = static_cast<uint32_t>(tiles);
    if (!kernel.dynamic) return (all + kernel.cluster - 1) / kernel.cluster * kernel.cluster;
    const uint32_t multiprocessors = static_cast<uint32_t>(device.multiprocessors - sm_margin);
    const uint32_t resident = multiprocessors * kernel.blocks_per_sm;
    const uint32_t clusters = (all < resident ? all : resident) / kernel.cluster;
    return (clusters < 1 ? 1 : clusters) * kernel.cluster;
}

}  // namespace fa3
