// Decoding: choose a kernel, divide the workspace, fill the parameters, launch.
#include "ops/decode.h"

#include <algorithm>

#include "attention/params.h"
#include "pack/choose.h"
#include "pack/workspace.h"
#include "params/decode.h"

namespace fa3 {
namespace {

constexpr OpName kOp("decode");

// Parts that the keys of all heads of a sequence are divided into: about one for each multiprocessor of a
// large GPU. The same for every GPU and every batch, because the bits of a result follow from the parts.
constexpr int64_t kPartsOfSequence = 128;
constexpr int64_t kMostParts = 128;

constexpr int64_t kMostSlots = 1024;
constexpr size_t kCounterBytes = kMostSlots * sizeof(fa3_u32);

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

struct Division {
    int64_t tiles_m;
    int64_t rows;   // of a unit, at most
    int64_t parts;  // no more than the longest sequence has steps: the others are never used
    uint32_t blocks;
    int64_t slots;
};

Division divide_keys(const fa3_fwd_args& args, const Problem& problem, const Device& device,
                     const Record& kernel) {
    Division division;
    division.tiles_m = ceil_div(problem.rows_of_key_head(), kernel.tile_m);
    division.rows = std::min<int64_t>(kernel.tile_m, problem.rows_of_key_head());
    const int64_t steps = std::max<int64_t>(1, ceil_div(problem.seqlen_k, kernel.tile_n));
    const int64_t parts = std::min(kMostParts, ceil_div(kPartsOfSequence, problem.heads_kv));
    division.parts = std::min(parts, steps);
    const int64_t units = problem.batch * problem.heads_kv * division.tiles_m;
    division.blocks =
        resident_blocks(device, kernel, args.sm_margin, std::min(units * division.parts, kMostSlots));
    division.slots = std::min<int64_t>(division.blocks, units);
    return division;
}

// Takes the parts of the workspace. With null memory it measures them.
Workspace divide(const Division& division, const Record& kernel, void* memory, PartialParams* partial) {
    Workspace workspace(memory);
    const int64_t rows = division.slots * division.parts * division.rows;
    partial->out = workspace.take<float>(rows * kernel.head_dim_v);
    partial->sums = workspace.take<float>(rows * 2);
    return workspace;
}

}  // namespace

const Record* find_decode(const Pack& pack, const Device& device, const fa3_fwd_args& args,
                          const Problem& problem, Mask mask) {
    if (!problem.has_few_rows() || assumed_seqlen_q() > problem.seqlen_q) return nullptr;
    const Wanted wanted = {kOp, mask, args.q.dtype, args.out.dtype, problem.head_dim, problem.head_dim_v};
    const auto precedes = [](const Record& a, const Record& b) { return a.head_dim < b.head_dim; };
    Choice choice;
    offer_kernels(pack, device, wanted, [&](const Key& key, const Record& candidate) {
        if (covers_head_dims(key, wanted)) choice.consider(key, candidate, precedes);
    });
    if (choice.record == nullptr) return nullptr;
    // A launch numbers the steps of all units.
    const int64_t tiles_m = ceil_div(problem.rows_of_key_head(), choice.record->tile_m);
    const int64_t steps = ceil_div(problem.seqlen_k, choice.record->tile_n) + 1;
    return problem.batch <= INT32_MAX / (problem.heads_kv * tiles_m) / steps ? choice.record : nullptr;
}

size_t decode_workspace(const fa3_fwd_args& args, const Problem& problem, const Device& device,
                        const Record& kernel) {
    PartialParams partial = {};
    return divide(divide_keys(args, problem, device, kernel), kernel, nullptr, &partial).size();
}

fa3_status run_decode(const fa3_fwd_args& args, const Problem& problem, const ResolvedMask& mask,
                      const Target& target, const Record& kernel, Error error) {
    const Inputs inputs = inputs_of(args);
    const Division division = divide_keys(args, problem, *target.device, kernel);
    DecodeParams params = {};
    params.q = operand(args.q, problem.storage_q);
    params.k = operand(args.k, problem.storage_k);
    params.v = operand(args.v, problem.storage_k);
    params.out = operand(args.out, problem.storage_q);
    params.lse = lse_operand(args.lse, problem);
    params.sink = args.sink;
    params.sequences = sequence_params(inputs);
    params.scale = scale_params(inputs);
    params.mask = mask.params;
    params.sizes = size_params(problem);
    params.storage = storage_params(inputs, problem);
    params.tiles.pack_gqa = static_cast<int32_t>(problem.heads_q / problem.heads_kv);
    params.tiles.tiles_m = static_cast<int32_t>(division.tiles_m);
    params.partial.parts = static_cast<int32_t>(division.parts);
    params.partial.rows = static_cast<int32_t>(division.rows);
    params.partial.slots = static_cast<int32_t>(division.slots);
    fa3_status status =
        divide(division, kernel, args.workspace, &params.partial).check(args.workspace_size, error);
    if (status != FA3_OK) return status;
    const cuda::Stream stream = static_cast<cuda::Stream>(args.stream);
    ContextScope context(*target.driver);
    status = context.enter(*target.device, error);
    if (status == FA3_OK) {
        status = target.device->counters.take(*target.driver, stream, kCounterBytes,
                                              reinterpret_cast<void**>(&params.partial.arrived), error);
    }
    if (status != FA3_OK) return status;
    return launch_all(target, {{&kernel, division.blocks, &params, /*overlaps_previous=*/false}}, stream,
                      error);
}

}  // namespace fa3
