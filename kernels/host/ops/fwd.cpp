// Attention forward: check, choose a kernel, fill its parameters, launch.
#include "ops/fwd.h"

#include <optional>

#include "attention/check.h"
#include "attention/mask.h"
#include "attention/params.h"
#include "attention/tensor_map.h"
#include "attention/tiles.h"
#include "ops/decode.h"
#include "pack/choose.h"
#include "pack/entry.h"
#include "pack/launch.h"
#include "params/fwd.h"

namespace fa3 {
namespace {

constexpr OpName kOp("fwd");

// The tail of a record of this operator.
struct FwdTail {
    uint32_t dynamic;     // 1: the kernel takes tiles from a TileQueue; 0: one block a tile
    uint32_t box_rows_q;  // of the boxes of its tensor maps; 0: the kernel computes addresses
    uint32_t box_rows_kv;
    uint32_t box_rows_out;
    uint32_t min_seqlen_q;  // for query sequences of at least this length, in dense calls; 0: for any
    uint32_t value_slices;  // tiles that share a row's head_dim_v columns
    uint32_t packs_gqa;     // 1: query heads that share a key head can share a tile

    bool uses_tensor_maps() const { return box_rows_q != 0; }
};

bool is_box(uint32_t rows, bool used) { return used ? 1 <= rows && rows <= 256 : rows == 0; }

// All boxes or none, and whole slices.
bool is_sound(const Record& record, const FwdTail& tail) {
    const bool used = tail.uses_tensor_maps();
    return is_box(tail.box_rows_q, used) && is_box(tail.box_rows_kv, used) &&
           is_box(tail.box_rows_out, used) && tail.dynamic <= 1 && tail.packs_gqa <= 1 &&
           1 <= tail.value_slices && tail.value_slices <= 16 && record.head_dim_v % tail.value_slices == 0 &&
           record.head_dim_v != 0;
}

// The tail; sound defaults where the record has another one, which `check_tail` refuses once the record is
// chosen.
FwdTail tail_of(const Record& record) {
    FwdTail tail = {};
    if (!read_tail(record, &tail) || tail.value_slices == 0) tail.value_slices = 1;
    return tail;
}

fa3_status check_tail(const Record& record, Error error) {
    FwdTail tail;
    if (read_tail(record, &tail) && is_sound(record, tail)) return FA3_OK;
    return error.fail(FA3_BAD_PACK, "kernel %s of the pack is malformed: a field of fwd is out of range",
                      record.name);
}

// Columns of k and v that a kernel computes for each key, in whole slices of v.
int64_t computed_columns(const Record& record, int64_t head_dim_v) {
    const int64_t slice = record.head_dim_v / tail_of(record).value_slices;
    int64_t columns_v = slice;
    while (columns_v < head_dim_v) columns_v += slice;
    return record.head_dim + columns_v;
}

// The fewest columns first; of equals the kernel for the longest sequences.
bool precedes(const Record& a, const Record& b, int64_t head_dim_v) {
    const int64_t columns = computed_columns(a, head_dim_v);
    const int64_t other_columns = computed_columns(b, head_dim_v);
    if (columns != other_columns) return columns < other_columns;
    if (a.head_dim != b.head_dim) return a.head_dim < b.head_dim;
    return tail_of(a).min_seqlen_q > tail_of(b).min_seqlen_q;
}

// The length that a schedule for long sequences may depend on: none in ragged batches, where the kernel of a
// sequence may not depend on the other sequences.
std::optional<int64_t> common_seqlen_q(const Problem& problem) {
    if (problem.storage_q == Storage::kDense) return problem.seqlen_q;
    return {};
}

fa3_status choose(const Pack& pack, const Device& device, const fa3_fwd_args& args, const Problem& problem,
                  Mask mask, const Record** record, Error error) {
    const Wanted wanted = {kOp, mask, args.q.dtype, args.out.dtype, problem.head_dim, problem.head_dim_v};
    const int64_t assumed = assumed_seqlen_q();
    const int64_t given = common_seqlen_q(problem).value_or(0);
    const int64_t seqlen_q = given > assumed ? given : assumed;
    const auto accepts = [&](const Record& candidate) { return tail_of(candidate).min_seqlen_q <= seqlen_q; };
    const auto comes_first = [&](const Record& a, const Record& b) {
        return precedes(a, b, problem.head_dim_v);
    };
    const fa3_status status = choose_kernel(pack, device, wanted, accepts, comes_first, record, error);
    return status == FA3_OK ? check_tail(**record, error) : status;
}

// A checked call and its kernel.
struct Plan {
    Problem problem;
    ResolvedMask mask;
    Target target;
    const Record* kernel = nullptr;  // null: nothing to compute
    bool decodes = false;            // the kernel is one of `ops/decode.h`
};

fa3_status check_buffers(const fa3_fwd_args& args, const Problem& problem, Error error) {
    const Inputs inputs = inputs_of(args);
    fa3_status status = check_output(args.out, inputs, problem, error);
    if (status == FA3_OK) status = check_layouts(inputs, problem, error);
    if (status == FA3_OK && !problem.is_dense())
        status = check_same_slots(args.out, "out", args.q, "q", problem.storage_q, error);
    if (status != FA3_OK || is_empty(args.out)) return status;
    status = check_address(args.lse, "lse", 4, error);
    if (status == FA3_OK) status = check_optional_address(args.sink, "sink", 4, error);
    return status == FA3_OK ? check_sequence_arrays(args.sequences, error) : status;
}

// `may_decode`: whether there is a workspace, or will be.
fa3_status make_plan_with(const fa3_fwd_args& args, bool may_decode, Plan* plan, Error error) {
    const Inputs inputs = inputs_of(args);
    plan->problem = problem_of(inputs);
    fa3_status status = check_inputs(inputs, plan->problem, error);
    if (status == FA3_OK) status = check_not_negative(args.sm_margin, "sm_margin", error);
    if (status == FA3_OK) status = check_buffers(args, plan->problem, error);
    if (status != FA3_OK || is_empty(args.out) || plan->problem.batch == 0) return status;

    plan->mask = resolve_mask(inputs, plan->problem);
    status = find_target(args.device, &plan->target, error);
    if (status != FA3_OK) return status;
    const Device& device = *plan->target.device;
    const Pack& pack = *plan->target.pack;
    if (may_decode) plan->kernel = find_decode(pack, device, args, plan->problem, plan->mask.mask);
    plan->decodes = plan->kernel != nullptr;
    if (!plan->decodes) status = choose(pack, device, args, plan->problem, plan->mask.mask, &plan->kernel, error);
    if (status != FA3_OK) return status;
    if (args.sm_margin < device.multiprocessors) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT,
                      "sm_margin is %d; it should be less than the %d multiprocessors of device %d",
                      args.sm_margin, device.multiprocessors, device.ordinal);
}

fa3_status make_plan(const fa3_fwd_args& args, Plan* plan, Error error) {
    return make_plan_with(args, args.workspace != nullptr, plan, error);
}

// Heads that share a tile lie side by side in the boxes of q and out.
fa3_status encode_tensors(const cuda::Driver& driver, const fa3_fwd_args& args, const Problem& problem,
                          const FwdTail& tail, FwdParams& params, Error error) {
    const auto encode = [&](const fa3_tensor& tensor, Storage storage, const char* argument, uint32_t heads,
                            uint32_t box_rows, TensorMap& map) {
        return encode_tensor_map(driver, args.device, tensor, storage, argument, {heads, box_rows / heads},
                                 args.out.data, &map, error);
    };
    const uint32_t box_rows_kv = static_cast<uint32_t>(params.box_rows_kv);
    const uint32_t heads = static_cast<uint32_t>(params.tiles.pack_gqa);
    const uint32_t heads_out = heads < tail.box_rows_out ? heads : tail.box_rows_out;
    fa3_status status = encode(args.q, problem.storage_q, "q", heads, tail.box_rows_q, params.q_map);
    if (status == FA3_OK) status = encode(args.k, problem.storage_k, "k", 1, box_rows_kv, params.k_map);
    if (status == FA3_OK) status = encode(args.v, problem.storage_k, "v", 1, box_rows_kv, params.v_map);
    if (status == FA3_OK)
        status = encode(args.out, problem.storage_q, "out", heads_out, tail.box_rows_out, params.out_map);
    return status;
}

fa3_status fill_params(const fa3_fwd_args& args, const Plan& plan, const FwdTail& tail, FwdParams& params,
                       Error error) {
    const Inputs inputs = inputs_of(args);
    const Problem& problem = plan.problem;
    params.q = operand(args.q, problem.storage_q);
    params.k = operand(args.k, problem.storage_k);
    params.v = operand(args.v, problem.storage_k);
    params.out = operand(args.out, problem.storage_q);
    params.lse = lse_operand(args.lse, problem);
    params.sink = args.sink;
    params.sequences = sequence_params(inputs);
    params.scale = scale_params(inputs);
    params.mask = plan.mask.params;
    params.sizes = size_params(problem);
    params.storage = storage_params(inputs, problem);
    params.k_steps = map_steps(args.k, problem.storage_k);
    params.v_steps = map_steps(args.v, problem.storage_k);
    params.box_rows_kv = static_cast<int32_t>(
        tail.uses_tensor_maps() ? box_rows_of_keys(inputs, problem, tail.box_rows_kv) : 0);
    const TileShape shape = {plan.kernel->tile_m, plan.kernel->head_dim_v / tail.value_slices,
                             tail.packs_gqa == 1, tail.box_rows_q};
    return divide_into_tiles(inputs, problem, plan.mask, shape, *plan.target.device, &params.tiles, error);
}

fa3_status run(const fa3_fwd_args& args, Error error) {
    Plan plan;
    if (fa3_status status = make_plan(args, &plan, error); status != FA3_OK || plan.kernel == nullptr)
        return status;
    if (plan.decodes) return run_decode(args, plan.problem, plan.mask, plan.target, *plan.kernel, error);
    const cuda::Driver& driver = *plan.target.driver;
    Device& device = *plan.target.device;
    const FwdTail tail = tail_of(*plan.kernel);
    FwdParams params = {};
    const cuda::Stream stream = static_cast<cuda::Stream>(args.stream);
    ContextScope context(driver);
    fa3_status status = fill_params(args, plan, tail, params, error);
    if (status == FA3_OK) status = context.enter(device, error);
    if (status == FA3_OK && tail.dynamic == 1)
        status = take_queue(driver, device, stream, &params.queue, error);
    if (status == FA3_OK && tail.uses_tensor_maps())
        status = encode_tensors(driver, args, plan.problem, tail, params, error);
    if (status != FA3_OK) return status;
    const uint32_t tiles = static_cast<uint32_t>(params.tiles.count);
    const uint32_t blocks =
        tail.dynamic == 1 ? resident_blocks(device, *plan.kernel, args.sm_margin, tiles) : tiles;
    return launch_all(plan.target, {{plan.kernel, blocks, &params, /*overlaps_previous=*/false}}, stream,
                      error);
}

}  // namespace
}  // namespace fa3

fa3_status fa3_fwd(const fa3_fwd_args* args, char* error, size_t error_size) {
    return fa3::run_call(args, "fa3_fwd_args", fa3::run, {error, error_size});
}

fa3_status fa3_fwd_workspace(const fa3_fwd_args* args, size_t* size, char* error, size_t error_size) {
    const auto measure = [&](const fa3_fwd_args& known, fa3::Error sink) {
        fa3::Plan plan;
        *size = 0;
        const fa3_status status = fa3::make_plan_with(known, /*may_decode=*/true, &plan, sink);
        if (status == FA3_OK && plan.decodes)
            *size = fa3::decode_workspace(known, plan.problem, *plan.target.device, *plan.kernel);
        return status;
    };
    return fa3::run_call(args, "fa3_fwd_args", measure, {error, error_size});
}

fa3_status fa3_fwd_kernel(const fa3_fwd_args* args, fa3_kernel_info* info, char* error, size_t error_size) {
    return fa3::name_kernel<fa3::Plan>(args, "fa3_fwd_args", fa3::make_plan, info, {error, error_size});
}
