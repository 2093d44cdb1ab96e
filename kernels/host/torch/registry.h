// Registration of operators with torch. Each file of an operator registers its own.
#pragma once

#include <string.h>

#include <initializer_list>

#include "system/error.h"
#include "torch/shim.h"

namespace fa3 {

// An operator on the stack of torch: arguments in, results out. It owns the tensors on the stack from its
// first line, and puts its results there when it succeeds.
using Run = fa3_status (*)(StableIValue* stack, Error error);

struct OperatorRecord {
    const char* schema;
    void (*function)(StableIValue* stack, uint64_t inputs, uint64_t outputs);
};

// Runs an operator. An error becomes an exception of torch: aoti_torch_check throws it inside libtorch, after
// every tensor here has been released, and it passes through the frames of this library, which hold nothing
// to clean up.
template <Run run>
void call(StableIValue* stack, uint64_t, uint64_t) {
    constexpr char kPrefix[] = "flash_attn3: ";
    constexpr size_t kPrefixSize = sizeof(kPrefix) - 1;
    char message[4096];
    memcpy(message, kPrefix, sizeof(kPrefix));
    const fa3_status status = run(stack, {message + kPrefixSize, sizeof(message) - kPrefixSize});
    aoti_torch_check(status == FA3_OK, "call", "flash_attn3", 0, message);
}

template <Run run>
constexpr OperatorRecord operator_record(const char* schema) {
    return {schema, call<run>};
}

// Registers operators when this library is loaded, for CUDA, and for the CPU with the error that they need a
// GPU. They stay until the process ends. A failure (this library loaded from two folders) is reported on
// stderr by torch.
class Registration {
  public:
    Registration(std::initializer_list<OperatorRecord> operators);
};

}  // namespace fa3
