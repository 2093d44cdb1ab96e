// The two entry points that every operator exports: the call, and the name of its kernel.
#pragma once

#include "pack/kernel_info.h"
#include "system/structure.h"

namespace fa3 {

// Runs `run(args, error)` on the arguments of a caller.
template <typename Args, typename Run>
fa3_status run_call(const Args* args, const char* type, const Run& run, Error error) {
    Args known;
    const fa3_status status = read_struct(args, type, &known, error);
    return status == FA3_OK ? run(known, error) : status;
}

// Writes the kernel of `make_plan(args, &plan, error)` to `info`.
template <typename Plan, typename Args, typename MakePlan>
fa3_status name_kernel(const Args* args, const char* type, const MakePlan& make_plan, fa3_kernel_info* info,
                       Error error) {
    Plan plan;
    const auto plan_call = [&](const Args& known, Error sink) { return make_plan(known, &plan, sink); };
    const fa3_status status = run_call(args, type, plan_call, error);
    return status == FA3_OK ? write_kernel_info(plan.kernel, info, error) : status;
}

}  // namespace fa3
