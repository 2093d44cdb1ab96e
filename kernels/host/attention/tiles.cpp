#include "attention/tiles.h"

namespace fa3 {
namespace {

// Under a causal mask the longest tiles of several heads come first, and the K and V of these heads should
// stay in the L2, beside q, out and the copies that each half of the L2 holds of lines that both halves read.
// Short sequences need fewer heads to occupy every multiprocessor. Fractions by measurement on an H200, in
// fifteenths.
constexpr int64_t kFifteenthsForKv = 8;
constexpr int64_t kFifteenthsForShortKv = 4;
constexpr int64_t kShortSeqlen = 1024;

// The most heads side by side in a box of q.
constexpr int64_t kMaxHeadsPerBox = 64;

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

bool can_share_tiles(const TileShape& shape, int64_t group) {
    if (!shape.packs_gqa || group == 1) return false;
    if (shape.box_rows == 0) return true;
    return group <= kMaxHeadsPerBox && (group & (group - 1)) == 0 && shape.box_rows % group == 0;
}

// Query heads that share a tile: all of a key head where that saves a tenth of the tiles.
int64_t heads_per_tile(const Problem& problem, const TileShape& shape) {
    const int64_t group = problem.heads_q / problem.heads_kv;
    if (!can_share_tiles(shape, group)) return 1;
    const int64_t shared = ceil_div(problem.seqlen_q * group, shape.rows);
    const int64_t apart = group * ceil_div(problem.seqlen_q, shape.rows);
    return 10 * shared <= 9 * apart ? group : 1;
}

// Whether later tiles of a head see more keys.
bool tiles_differ(const MaskParams& mask) {
    return mask.window_right >= 0 && mask.window_left < 0 && mask.attention_chunk == 0;
}

// The largest divisor of `all` up to `most`, unless it is half of `most` or less. With sections of one size
// no short last section starts its longest tiles when nothing is left to run beside them.
int64_t even_section(int64_t all, int64_t most) {
    for (int64_t size = most; 2 * size > most; --size) {
        if (all % size == 0) return size;
    }
    return most;
}

// Key heads per section: one where all tiles are alike, so that the tiles of a head run together and share
// what they read; else as many as fit in the L2, at least one.
int64_t heads_in_l2(const Inputs& inputs, const Problem& problem, const MaskParams& mask,
                    const Device& device) {
    if (!tiles_differ(mask)) return 1;
    const int64_t all = problem.heads_kv * problem.batch;
    const int64_t bytes_per_row =
        problem.head_dim * info_of(inputs.k.dtype).bytes + problem.head_dim_v * info_of(inputs.v.dtype).bytes;
    const int64_t bytes_per_head = problem.seqlen_k * bytes_per_row;
    const int64_t fifteenths = problem.seqlen_k <= kShortSeqlen ? kFifteenthsForShortKv : kFifteenthsForKv;
    const int64_t bytes = int64_t{device.l2_bytes} * fifteenths / 15;
    const int64_t fitting = bytes_per_head == 0 ? all : bytes / bytes_per_head;
    return fitting < 1 ? 1 : fitting > all ? all : even_section(all, fitting);
}

// Query tiles of all sequences; of packed ones an upper bound, each with one tile that is not full.
int64_t tiles_of_a_head(const Problem& problem, int64_t shared, int64_t tiles_m, int64_t rows) {
    const int64_t all = problem.batch * tiles_m;
    if (problem.storage_q != Storage::kPacked) return all;
    const int64_t packed = problem.bound_q * shared / rows + problem.batch;
    return packed < all ? packed : all;
}

int32_t logarithm(int64_t power_of_two) {
    int32_t shift = 0;
    while ((int64_t{1} << (shift + 1)) <= power_of_two) ++shift;
    return shift;
}

}  // namespace

fa3_status divide_into_tiles(const Inputs& inputs, const Problem& problem, const ResolvedMask& mask,
                             const TileShape& shape, const Device& device, TileParams* tiles, Error error) {
    const int64_t shared = heads_per_tile(problem, shape);
    const int64_t slices = ceil_div(problem.head_dim_v, shape.value_columns);
    const int64_t units = problem.heads_q / shared * slices;
    const int64_t tiles_m = ceil_div(problem.seqlen_q * shared, shape.rows);
    const int64_t of_a_head = tiles_of_a_head(problem, shared, tiles_m, shape.rows);
    if (units > INT32_MAX || tiles_m > INT32_MAX || of_a_head > INT32_MAX / units) {
        return error.fail(
            FA3_INVALID_ARGUMENT,
            "q has batch %lld, seqlen %lld and %lld heads, which is more than the %d tiles of %u "
            "positions that a launch can number",
            shown(problem.batch), shown(problem.seqlen_q), shown(problem.heads_q), INT32_MAX, shape.rows);
    }
    const int64_t per_key_head = problem.heads_q / problem.heads_kv / shared * slices;
    tiles->pack_gqa = static_cast<int32_t>(shared);
    tiles->pack_shift = logarithm(shared);
    tiles->value_slices = static_cast<int32_t>(slices);
    tiles->tiles_m = static_cast<int32_t>(tiles_m);
    tiles->count = static_cast<int32_t>(of_a_head * units);
    tiles->l2_heads = static_cast<int32_t>(heads_in_l2(inputs, problem, mask.params, device) * per_key_head);
    return FA3_OK;
}

}  // namespace fa3
