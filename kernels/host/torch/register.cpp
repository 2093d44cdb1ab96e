// Makes the operators known to torch when this library is loaded.
//
// An error becomes torch's own exception: aoti_torch_check throws it inside libtorch, after every tensor here
// has been released, and it passes through this library's frames, which hold nothing to clean up.
#include <string.h>

#include <initializer_list>

#include "torch/operators.h"

namespace fa3 {
namespace {

constexpr char kPrefix[] = "flash_attn3: ";

using Run = fa3_status (*)(StableIValue* stack, Error error);

template <Run run>
void call(StableIValue* stack, uint64_t, uint64_t) {
    constexpr size_t kPrefixSize = sizeof(kPrefix) - 1;
    char message[4096];
    memcpy(message, kPrefix, sizeof(kPrefix));
    const fa3_status status = run(stack, {message + kPrefixSize, sizeof(message) - kPrefixSize});
    aoti_torch_check(status == FA3_OK, "call", "flash_attn3", 0, message);
}

// Operators stay registered until the process ends, so the handles are kept by nobody. A failure to register
// (this library loaded from two folders) is reported on stderr by torch itself.
__attribute__((constructor)) void register_operators() {
    TorchLibraryHandle library = nullptr;
    if (aoti_torch_library_init_def("flash_attn3", "flash_attn3", 0, &library) != 0) return;
    for (const char* schema : {kFwdSchema, kFwdMaskedSchema, kFwdVarlenSchema, kFwdGeneralSchema,
                               kFwdIntoSchema, kCombineSchema, kCombineIntoSchema, kFwdQkvpackedSchema}) {
        aoti_torch_library_def(library, schema);
    }
    for (const char* dispatch_key : {"CUDA", "CPU"}) {  // on the CPU only to say that it needs a GPU
        if (aoti_torch_library_init_impl("flash_attn3", dispatch_key, "flash_attn3", 0, &library) == 0) {
            aoti_torch_library_impl(library, "fwd", call<run_fwd>);
            aoti_torch_library_impl(library, "fwd_masked", call<run_fwd_masked>);
            aoti_torch_library_impl(library, "fwd_varlen", call<run_fwd_varlen>);
            aoti_torch_library_impl(library, "fwd_general", call<run_fwd_general>);
            aoti_torch_library_impl(library, "fwd_into", call<run_fwd_into>);
            aoti_torch_library_impl(library, "combine", call<run_combine>);
            aoti_torch_library_impl(library, "combine_into", call<run_combine_into>);
            aoti_torch_library_impl(library, "fwd_qkvpacked", call<run_fwd_qkvpacked>);
        }
    }
}

}  // namespace
}  // namespace fa3
