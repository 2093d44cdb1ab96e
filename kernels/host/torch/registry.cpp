#include "torch/registry.h"

namespace fa3 {
namespace {

constexpr char kNamespace[] = "flash_attn3";
constexpr size_t kMaxName = 64;

// The part of a schema before its arguments.
struct Name {
    char text[kMaxName] = {};

    explicit Name(const char* schema) {
        for (size_t i = 0; i + 1 < kMaxName && schema[i] != '(' && schema[i] != '\0'; ++i)
            text[i] = schema[i];
    }
};

}  // namespace

Registration::Registration(std::initializer_list<OperatorRecord> operators) {
    TorchLibraryHandle library = nullptr;
    if (aoti_torch_library_init_fragment(kNamespace, kNamespace, 0, &library) != 0) return;
    for (const OperatorRecord& record : operators) aoti_torch_library_def(library, record.schema);
    for (const char* dispatch_key : {"CUDA", "CPU"}) {
        if (aoti_torch_library_init_impl(kNamespace, dispatch_key, kNamespace, 0, &library) != 0) continue;
        for (const OperatorRecord& record : operators) {
            aoti_torch_library_impl(library, Name(record.schema).text, record.function);
        }
    }
}

}  // namespace fa3
