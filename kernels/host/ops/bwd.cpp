// Attention backward: check, choose the kernels, divide the workspace, fill the parameters, launch.
#include "ops/bwd.h"

#include <algorithm>

#include "attention/mask.h"
#include "attention/params.h"
#include "attention/tensor_map.h"
#include "ops/bwd_check.h"
#include "pack/choose.h"
#include "pack/entry.h"
#include "pack/launch.h"
#include "pack/workspace.h"
#include "params/bwd.h"

namespace fa3 {
namespace {

constexpr OpName kOp("bwd");

// Of the order of work, by measurement (kernels/NOTES.md).
constexpr int64_t kTriangularWaves = 8;
constexpr int64_t kTilesOfAPair = 4;  // at once
// Blocks that write zeros behind the last sequence of packed tensors.
constexpr int64_t kTailBlocks = 64;

// The launches of a call, in their order.
enum Step : uint32_t { kPrepare, kMain, kQueries, kFinish, kSteps };

// The tail of a record of this operator.
struct BwdTail {
    uint32_t launch;       // Step
    uint32_t dynamic;      // 1: blocks take tiles of keys from a queue
    uint32_t tensor_maps;  // 1: loads through tensor maps
    uint32_t lane_floats;  // neighbouring floats of a lane in the sums of dq: 1 or 4; 0: no sums, kQueries computes dq
};

fa3_status check_tail(const Record& record, Error error) {
    BwdTail tail;
    const bool sound = read_tail(record, &tail) && tail.dynamic <= 1 && tail.tensor_maps <= 1 &&
                       (tail.lane_floats <= 1 || tail.lane_floats == 4) && record.head_dim % 8 == 0 &&
                       record.head_dim != 0 && record.head_dim_v != 0 && record.tile_n != 0;
    if (sound) return FA3_OK;
    return error.fail(FA3_BAD_PACK, "kernel %s of the pack is malformed: a field of bwd is out of range",
                      record.name);
}

// kSteps for a record of another operator's form.
uint32_t step_of(const Record& record) {
    BwdTail tail;
    return read_tail(record, &tail) && tail.launch < kSteps ? tail.launch : kSteps;
}

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

// A checked call and its kernels.
struct Plan {
    Problem problem;
    ResolvedMask mask;
    Target target;
    const Record* kernels[kSteps] = {};  // null: nothing to compute
    BwdTail tail = {};
    BwdParams params = {};
    size_t workspace_size = 0;
};

bool has_fewer_columns(const Record& a, const Record& b) {
    const uint32_t columns = a.head_dim + a.head_dim_v;
    const uint32_t other_columns = b.head_dim + b.head_dim_v;
    return columns != other_columns ? columns < other_columns : a.head_dim < b.head_dim;
}

// The kernels of all launches, in one pass over the pack.
fa3_status choose(const fa3_bwd_args& args, Plan* plan, Error error) {
    const Problem& problem = plan->problem;
    const Pack& pack = *plan->target.pack;
    const Device& device = *plan->target.device;
    Wanted wanted = {kOp, plan->mask.mask, args.q.dtype, args.q.dtype, problem.head_dim, problem.head_dim_v};
    Choice choices[kSteps];
    offer_kernels(pack, device, wanted, [&](const Key& key, const Record& record) {
        const uint32_t step = step_of(record);
        const bool has_head_dims = step == kMain || step == kQueries;
        if (step == kSteps || (has_head_dims && !covers_head_dims(key, wanted))) return;
        choices[step].consider(key, record, has_fewer_columns);
    });
    for (uint32_t step = 0; step < kSteps; ++step) plan->kernels[step] = choices[step].record;
    if (plan->kernels[kMain] == nullptr) return fail_choice(pack, device, wanted, error);
    fa3_status status = check_tail(*plan->kernels[kMain], error);
    if (status != FA3_OK) return status;
    read_tail(*plan->kernels[kMain], &plan->tail);
    if (plan->tail.lane_floats != 0) {
        plan->kernels[kQueries] = nullptr;
    } else if (plan->kernels[kQueries] == nullptr) {
        return error.fail(FA3_BAD_PACK, "kernel %s of the pack computes no dq, and no other does", plan->kernels[kMain]->name);
    }
    // Those of the first and last launch have no code for one SM exactly: they run beside any main kernel.
    wanted.any_code = true;
    wanted.head_dim = wanted.head_dim_v = 0;
    for (const Step step : {kPrepare, kFinish}) {
        if (status != FA3_OK || plan->kernels[step] != nullptr) continue;
        const auto accepts = [&](const Record& candidate) { return step_of(candidate) == step; };
        status = choose_kernel(pack, device, wanted, accepts, has_fewer_columns, &plan->kernels[step], error);
    }
    return status;
}

// Pairs of a sequence and a key head whose tiles of keys are computed together: as many as have a block for each tile, so
// that their q, dout and dq stay in the L2. Blocks of a causal mask are of different lengths: more pairs leave short blocks
// for the end. Blocks that take turns wait less the fewer of a pair run at once.
int32_t pairs_together(const fa3_bwd_args& args, const Plan& plan, int64_t tiles_n) {
    const MaskParams& mask = plan.mask.params;
    const int64_t blocks = int64_t{plan.target.device->multiprocessors} * plan.kernels[kMain]->blocks_per_sm;
    const int64_t all = plan.problem.batch * plan.problem.heads_kv;
    const bool triangular = mask.window_right >= 0 && mask.window_left < 0 && mask.attention_chunk <= 0;
    int64_t pairs = blocks / tiles_n;
    if (triangular) pairs = std::min(pairs * kTriangularWaves, blocks / kTilesOfAPair);
    if (args.deterministic == 1 && plan.tail.lane_floats != 0) pairs = triangular ? blocks / (kTilesOfAPair / 2) : blocks / kTilesOfAPair;
    return static_cast<int32_t>(std::clamp<int64_t>(pairs, 1, all));
}

// Takes the parts of the workspace. With null memory it measures them.
Workspace divide(const fa3_bwd_args& args, const Problem& problem, void* memory, BwdParams* params) {
    Workspace workspace(memory);
    BwdWorkspace& parts = params->workspace;
    const int64_t tiles = problem.heads_q * parts.tiles;
    const int64_t rows = tiles * parts.tile_m;
    const bool sums = parts.columns_q != 0;
    if (sums) parts.dq = workspace.take<float>(rows * parts.columns_q);
    parts.lse_log2 = workspace.take<float>(rows);
    parts.minus_delta = workspace.take<float>(rows);
    if (args.sink != nullptr) {
        parts.sink_partials = workspace.take<float>(problem.heads_q * problem.batch * params->tiles_m);
    }
    if (sums && args.deterministic == 1) parts.turns = workspace.take<fa3_u32>(tiles);
    return workspace;
}

// Tiles of query rows of a head. A packed sequence can start and end inside a tile.
int64_t tiles_of_a_head(const Problem& problem, int64_t tiles_m, int64_t tile_m) {
    const int64_t all = problem.batch * tiles_m;
    return problem.storage_q == Storage::kPacked ? problem.bound_q / tile_m + problem.batch : all;
}

// What of the parameters needs no address.
fa3_status fill_sizes(const fa3_bwd_args& args, Plan* plan, Error error) {
    const Problem& problem = plan->problem;
    BwdParams& params = plan->params;
    const Record& kernel = *plan->kernels[kMain];
    const int64_t tile_m = kernel.tile_m;
    const int64_t tiles_m = std::max<int64_t>(1, ceil_div(problem.seqlen_q, tile_m));
    const int64_t tiles_n = std::max<int64_t>(1, ceil_div(problem.seqlen_k, kernel.tile_n));
    const int64_t tiles = tiles_of_a_head(problem, tiles_m, tile_m);
    const int64_t sequences = problem.batch * std::max(problem.heads_q, problem.heads_kv);
    if (sequences > INT32_MAX / std::max(tiles_m, tiles_n) || tiles > INT32_MAX) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "q has batch %lld, seqlen %lld and %lld heads, and k has seqlen %lld, which is more than "
                          "the %d tiles that a launch can number",
                          shown(problem.batch), shown(problem.seqlen_q), shown(problem.heads_q),
                          shown(problem.seqlen_k), INT32_MAX);
    }
    const Inputs inputs = inputs_of(args);
    params.scale = scale_params(inputs);
    params.softmax_scale = args.scale.softmax_scale;
    params.mask = plan->mask.params;
    params.sizes = size_params(problem);
    params.storage = storage_params(inputs, problem);
    params.total_q = static_cast<int32_t>(args.q.shape[kSeqlen]);
    params.total_k = static_cast<int32_t>(args.k.shape[kSeqlen]);
    params.tiles_m = static_cast<int32_t>(tiles_m);
    params.tiles_n = static_cast<int32_t>(tiles_n);
    params.l2_heads = pairs_together(args, *plan, tiles_n);
    params.tail_blocks =
        problem.storage_q == Storage::kPacked || problem.storage_k == Storage::kPacked ? kTailBlocks : 0;
    params.workspace.tiles = static_cast<int32_t>(tiles);
    params.workspace.tile_m = static_cast<int32_t>(tile_m);
    params.workspace.tile_n = static_cast<int32_t>(kernel.tile_n);
    params.workspace.columns_q = plan->tail.lane_floats == 0 ? 0 : static_cast<int32_t>(kernel.head_dim);
    params.workspace.lane_floats = static_cast<int32_t>(plan->tail.lane_floats);
    plan->workspace_size = divide(args, problem, nullptr, &params).size();
    return FA3_OK;
}

// `check`: of the arguments, check_bwd or, where no address is read, check_bwd_shapes.
template <typename Check>
fa3_status make_plan_of(const fa3_bwd_args& args, const Check& check, Plan* plan, Error error) {
    const Inputs inputs = inputs_of(args);
    plan->problem = problem_of(inputs);
    fa3_status status = check(args, plan->problem, error);
    if (status != FA3_OK || has_no_gradient(args)) return status;
    plan->mask = resolve_mask(inputs, plan->problem);
    status = find_target(args.device, &plan->target, error);
    if (status == FA3_OK) status = choose(args, plan, error);
    if (status != FA3_OK) return status;
    return fill_sizes(args, plan, error);
}

fa3_status make_plan(const fa3_bwd_args& args, Plan* plan, Error error) {
    return make_plan_of(args, check_bwd, plan, error);
}

void fill_addresses(const fa3_bwd_args& args, Plan* plan) {
    const Problem& problem = plan->problem;
    BwdParams& params = plan->params;
    params.q = operand(args.q, problem.storage_q);
    params.k = operand(args.k, problem.storage_k);
    params.v = operand(args.v, problem.storage_k);
    params.out = operand(args.out, problem.storage_q);
    params.dout = operand(args.dout, problem.storage_q);
    params.dq = operand(args.dq, problem.storage_q);
    params.dk = operand(args.dk, problem.storage_k);
    params.dv = operand(args.dv, problem.storage_k);
    params.lse = lse_operand(const_cast<float*>(args.lse), problem);
    params.dlse = lse_operand(const_cast<float*>(args.dlse), problem);
    params.sink = args.sink;
    params.dsink = args.dsink;
    params.sequences = sequence_params(inputs_of(args));
}

fa3_status encode_tensors(const fa3_bwd_args& args, Plan* plan, Error error) {
    const Problem& problem = plan->problem;
    const uint32_t rows_q = plan->kernels[kMain]->tile_m;
    const uint32_t rows_k = plan->kernels[kMain]->tile_n;
    BwdParams& params = plan->params;
    const struct {
        const fa3_tensor& tensor;
        const char* argument;
        Storage storage;
        uint32_t rows;
        TensorMap* map;
        MapSteps* steps;
    } operands[] = {
        {args.q, "q", problem.storage_q, rows_q, &params.q_map, &params.q_steps},
        {args.k, "k", problem.storage_k, rows_k, &params.k_map, &params.k_steps},
        {args.v, "v", problem.storage_k, rows_k, &params.v_map, &params.v_steps},
        {args.dout, "dout", problem.storage_q, rows_q, &params.dout_map, &params.dout_steps},
    };
    for (const auto& each : operands) {
        if (is_empty(each.tensor)) continue;  // no step loads from it
        *each.steps = map_steps(each.tensor, each.storage);
        const fa3_status status =
            encode_tensor_map(*plan->target.driver, args.device, each.tensor, each.storage, each.argument,
                              {1, each.rows}, args.out.data, each.map, error);
        if (status != FA3_OK) return status;
    }
    return FA3_OK;
}

fa3_status run(const fa3_bwd_args& args, Error error) {
    Plan plan;
    fa3_status status = make_plan(args, &plan, error);
    if (status != FA3_OK || plan.kernels[kMain] == nullptr) return status;
    status = divide(args, plan.problem, args.workspace, &plan.params).check(args.workspace_size, error);
    if (status != FA3_OK) return status;
    fill_addresses(args, &plan);
    ContextScope context(*plan.target.driver);
    Device& device = *plan.target.device;
    const cuda::Stream stream = static_cast<cuda::Stream>(args.stream);
    status = context.enter(device, error);
    if (status == FA3_OK && plan.tail.dynamic == 1)
        status = take_queue(*plan.target.driver, device, stream, &plan.params.queue, error);
    if (status == FA3_OK && plan.tail.tensor_maps == 1) status = encode_tensors(args, &plan, error);
    if (status != FA3_OK) return status;
    BwdParams& params = plan.params;
    const int64_t query_tiles = int64_t{params.sizes.batch} * params.sizes.heads_q * params.tiles_m;
    const int64_t key_tiles = int64_t{params.sizes.batch} * params.sizes.heads_kv * params.tiles_n;
    const auto blocks_of = [&](const Record& kernel, int64_t tiles) {
        return plan.tail.dynamic == 1 ? resident_blocks(device, kernel, args.sm_margin, tiles) : static_cast<uint32_t>(tiles);
    };
    const int64_t sinks = args.sink == nullptr ? 0 : params.sizes.heads_q;
    const int64_t last_blocks = (plan.kernels[kQueries] ? 0 : query_tiles) + sinks + params.tail_blocks;
    const Launch prepare = {plan.kernels[kPrepare], static_cast<uint32_t>(query_tiles), &params, false};
    const Launch main = {plan.kernels[kMain], blocks_of(*plan.kernels[kMain], key_tiles), &params, false};
    const Launch finish = {plan.kernels[kFinish], static_cast<uint32_t>(last_blocks), &params, false};
    if (plan.kernels[kQueries] == nullptr) return launch_all(plan.target, {prepare, main, finish}, stream, error);
    const Record& kernel = *plan.kernels[kQueries];
    const int64_t tiles = ceil_div(int64_t{params.tiles_m} * params.workspace.tile_m, kernel.tile_m);
    const int64_t blocks = int64_t{params.sizes.batch} * params.sizes.heads_q * tiles;
    const Launch queries = {&kernel, blocks_of(kernel, blocks), &params, false};
    return launch_all(plan.target, {prepare, main, queries, finish}, stream, error);
}

}  // namespace
}  // namespace fa3

fa3_status fa3_bwd(const fa3_bwd_args* args, char* error, size_t error_size) {
    return fa3::run_call(args, "fa3_bwd_args", fa3::run, {error, error_size});
}

fa3_status fa3_bwd_workspace(const fa3_bwd_args* args, size_t* size, char* error, size_t error_size) {
    const auto measure = [&](const fa3_bwd_args& known, fa3::Error sink) {
        fa3::Plan plan;
        const fa3_status status = fa3::make_plan_of(known, fa3::check_bwd_shapes, &plan, sink);
        *size = plan.workspace_size;
        return status;
    };
    return fa3::run_call(args, "fa3_bwd_args", measure, {error, error_size});
}

fa3_status fa3_bwd_kernel(const fa3_bwd_args* args, uint32_t launch, fa3_kernel_info* info, char* error,
                          size_t error_size) {
    const auto name_launch = [&](const fa3_bwd_args& known, fa3::Error sink) {
        fa3::Plan plan;
        const fa3_status status = fa3::make_plan(known, &plan, sink);
        if (status != FA3_OK) return status;
        if (launch >= fa3::kSteps) {
            return sink.fail(FA3_INVALID_ARGUMENT, "launch is %u; it should be 0, 1, 2 or 3", launch);
        }
        return fa3::write_kernel_info(plan.kernels[launch], info, sink);
    };
    return fa3::run_call(args, "fa3_bwd_args", name_launch, {error, error_size});
}
