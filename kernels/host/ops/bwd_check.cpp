#include "ops/bwd_check.h"

#include "attention/check.h"

namespace fa3 {
namespace {

// A tensor and the one whose shape and dtype it must have.
struct Pair {
    const fa3_tensor& tensor;
    const char* argument;
    const fa3_tensor& model;
    const char* model_argument;
    Storage storage;
};

fa3_status check_like(const Pair& pair, Error error) {
    if (pair.tensor.dtype != pair.model.dtype) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s.dtype is %d; it should be %d, as in %s", pair.argument,
                          pair.tensor.dtype, pair.model.dtype, pair.model_argument);
    }
    fa3_status status = check_extents(pair.tensor, pair.storage, pair.argument, error);
    for (int i = kBatch; i <= kHeadDim && status == FA3_OK; ++i) {
        if (pair.tensor.shape[i] == pair.model.shape[i]) continue;
        status =
            error.fail(FA3_INVALID_ARGUMENT, "%s has %s %lld; it should be %lld, as in %s", pair.argument,
                       dimension_name(pair.storage, i), shown(pair.tensor.shape[i]),
                       shown(pair.model.shape[i]), pair.model_argument);
    }
    return status;
}

fa3_status check_no_pages(const fa3_sequences& sequences, Error error) {
    if (sequences.page_table == nullptr) return FA3_OK;
    return error.fail(FA3_INVALID_ARGUMENT,
                      "page_table is given; it should be null: the gradient of a paged cache has no kernel");
}

}  // namespace

fa3_status check_bwd_shapes(const fa3_bwd_args& args, const Problem& problem, Error error) {
    const Inputs inputs = inputs_of(args);
    fa3_status status = check_no_pages(args.sequences, error);
    if (status == FA3_OK) status = check_inputs(inputs, problem, error);
    if (status == FA3_OK) status = check_output_shape(args.out, inputs, problem, error);
    const Pair pairs[] = {
        {args.dout, "dout", args.out, "out", problem.storage_q},
        {args.dq, "dq", args.q, "q", problem.storage_q},
        {args.dk, "dk", args.k, "k", problem.storage_k},
        {args.dv, "dv", args.v, "v", problem.storage_k},
    };
    for (const Pair& pair : pairs) {
        if (status == FA3_OK) status = check_like(pair, error);
    }
    if (status == FA3_OK) status = check_not_negative(args.sm_margin, "sm_margin", error);
    if (status == FA3_OK && args.deterministic != 0 && args.deterministic != 1) {
        return error.fail(FA3_INVALID_ARGUMENT, "deterministic is %d; it should be 0 or 1",
                          args.deterministic);
    }
    return status;
}

fa3_status check_bwd(const fa3_bwd_args& args, const Problem& problem, Error error) {
    fa3_status status = check_bwd_shapes(args, problem, error);
    const struct {
        const fa3_tensor& tensor;
        const char* argument;
        Storage storage;
        bool written;
    } tensors[] = {
        {args.q, "q", problem.storage_q, false},       {args.k, "k", problem.storage_k, false},
        {args.v, "v", problem.storage_k, false},       {args.out, "out", problem.storage_q, false},
        {args.dout, "dout", problem.storage_q, false}, {args.dq, "dq", problem.storage_q, true},
        {args.dk, "dk", problem.storage_k, true},      {args.dv, "dv", problem.storage_k, true},
    };
    for (const auto& each : tensors) {
        if (status == FA3_OK) status = check_layout(each.tensor, each.storage, each.argument, error);
        if (status == FA3_OK && each.written && !is_empty(each.tensor))
            status = check_room(each.tensor, each.storage, each.argument, error);
    }
    if (status != FA3_OK || has_no_gradient(args)) return status;
    if (!is_empty(args.out)) status = check_address(args.lse, "lse", 4, error);
    if (status == FA3_OK) status = check_optional_address(args.dlse, "dlse", 4, error);
    if (status == FA3_OK) status = check_optional_address(args.sink, "sink", 4, error);
    if (status == FA3_OK && args.sink != nullptr) status = check_address(args.dsink, "dsink", 4, error);
    return status == FA3_OK ? check_sequence_arrays(args.sequences, error) : status;
}

bool has_no_gradient(const fa3_bwd_args& args) {
    return is_empty(args.dq) && is_empty(args.dk) && is_empty(args.dv) && args.sink == nullptr;
}

}  // namespace fa3
