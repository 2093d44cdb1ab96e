// An operator that only tests have, as a new file of `kernels/host/ops`: two dependent launches and a workspace.
#include "attention/layout.h"
#include "attention/params.h"
#include "pack/choose.h"
#include "pack/entry.h"
#include "pack/launch.h"
#include "pack/workspace.h"

extern "C" {
typedef struct fa3_new_args {
    uint32_t struct_size;
    int32_t device;
    void* stream;
    fa3_tensor x;
    void* workspace;
    size_t workspace_size;
} fa3_new_args;

FA3_API fa3_status fa3_new(const fa3_new_args* args, char* error, size_t error_size);
FA3_API fa3_status fa3_new_workspace(const fa3_new_args* args, size_t* size, char* error, size_t error_size);
}

namespace fa3 {
namespace {

struct NewParams {
    Operand x;
    float* sums;
    int64_t* rows;
};

// Scratch: a sum for each row, and a number for each head.
Workspace divide(const fa3_new_args& args, void* memory, NewParams* params) {
    Workspace workspace(memory);
    params->sums = workspace.take<float>(args.x.shape[kBatch] * args.x.shape[kSeqlen]);
    params->rows = workspace.take<int64_t>(args.x.shape[kHeads]);
    return workspace;
}

fa3_status choose(const Target& target, const OpName& op, const fa3_new_args& args, const Record** record,
                  Error error) {
    const Wanted wanted = {op, Mask::kFull, args.x.dtype, args.x.dtype, args.x.shape[kHeadDim], 0};
    const auto accepts = [](const Record&) { return true; };
    const auto precedes = [](const Record& a, const Record& b) { return a.head_dim < b.head_dim; };
    return choose_kernel(*target.pack, *target.device, wanted, accepts, precedes, record, error);
}

fa3_status run(const fa3_new_args& args, Error error) {
    NewParams params = {};
    Target target;
    const Record* part = nullptr;
    const Record* join = nullptr;
    fa3_status status = check_extents(args.x, Storage::kDense, "x", error);
    if (status == FA3_OK) status = divide(args, args.workspace, &params).check(args.workspace_size, error);
    if (status == FA3_OK) status = find_target(args.device, &target, error);
    if (status == FA3_OK) status = choose(target, OpName("new_part"), args, &part, error);
    if (status == FA3_OK) status = choose(target, OpName("new_join"), args, &join, error);
    if (status != FA3_OK) return status;
    params.x = operand(args.x, Storage::kDense);
    ContextScope context(*target.driver);
    status = context.enter(*target.device, error);
    if (status != FA3_OK) return status;
    const uint32_t rows = static_cast<uint32_t>(args.x.shape[kSeqlen]);
    return launch_all(target,
                      {{part, resident_blocks(*target.device, *part, 0, rows), &params, false},
                       {join, 1, &params, /*overlaps_previous=*/true}},
                      static_cast<cuda::Stream>(args.stream), error);
}

}  // namespace
}  // namespace fa3

fa3_status fa3_new(const fa3_new_args* args, char* error, size_t error_size) {
    return fa3::run_call(args, "fa3_new_args", fa3::run, {error, error_size});
}

fa3_status fa3_new_workspace(const fa3_new_args* args, size_t* size, char* error, size_t error_size) {
    const auto measure = [&](const fa3_new_args& known, fa3::Error) {
        fa3::NewParams params;
        *size = fa3::divide(known, nullptr, &params).size();
        return FA3_OK;
    };
    return fa3::run_call(args, "fa3_new_args", measure, {error, error_size});
}
