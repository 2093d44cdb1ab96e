// The operator flash_attn3::fwd.
//
// An error becomes torch's own exception: aoti_torch_check throws it inside libtorch, after every tensor here
// has been released, and it passes through this library's frames, which hold nothing to clean up.
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <initializer_list>

#include "flash_attn3.h"
#include "fwd_check.h"
#include "torch_shim.h"
#include "torch_tensor.h"

namespace fa3 {
namespace {

constexpr char kPrefix[] = "flash_attn3: ";
constexpr char kSchema[] =
    "fwd(Tensor q, Tensor k, Tensor v, float softmax_scale, bool causal, int sm_margin) -> (Tensor out, "
    "Tensor lse)";

// The stack that torch hands over: arguments in, results out.
enum Slot { kQ, kK, kV, kSoftmaxScale, kCausal, kSmMargin };
enum Result { kOut, kLse };

double as_double(StableIValue value) {
    double number;
    memcpy(&number, &value, sizeof(number));
    return number;
}

bool as_bool(StableIValue value) { return (value & 0xff) != 0; }

fa3_status check_dtypes(const TorchTensor& q, const TorchTensor& k, const TorchTensor& v, Error error) {
    Text got;
    if (q.dtype() != aoti_torch_dtype_float16() && q.dtype() != aoti_torch_dtype_bfloat16()) {
        append_dtype(got, q.dtype());
        return error.fail(FA3_INVALID_ARGUMENT, "q has dtype %s; it should be float16 or bfloat16", got.data);
    }
    for (const TorchTensor* tensor : {&k, &v}) {
        if (tensor->dtype() == q.dtype()) continue;
        Text wanted;
        append_dtype(got, tensor->dtype());
        append_dtype(wanted, q.dtype());
        return error.fail(FA3_INVALID_ARGUMENT, "%s has dtype %s; it should be %s, as in q",
                          tensor->argument(), got.data, wanted.data);
    }
    return FA3_OK;
}

fa3_status check_devices(const TorchTensor& q, const TorchTensor& k, const TorchTensor& v, Error error) {
    Text q_device;
    if (k.is_on_device_of(q) && v.is_on_device_of(q) && q.device_type() == aoti_torch_device_type_cuda()) {
        return FA3_OK;
    }
    append_device(q_device, q);
    for (const TorchTensor* tensor : {&k, &v}) {
        if (tensor->is_on_device_of(q)) continue;
        Text device;
        append_device(device, *tensor);
        return error.fail(FA3_INVALID_ARGUMENT, "%s is on %s; it should be on %s, as q is",
                          tensor->argument(), device.data, q_device.data);
    }
    return error.fail(FA3_INVALID_ARGUMENT, "q is on %s, but this operator needs CUDA tensors",
                      q_device.data);
}

// The function lives in libtorch_cuda, which a torch for CPUs does not have; so it is looked up, not linked.
fa3_status current_stream(int32_t device, void** stream, Error error) {
    using GetStream = AOTITorchError (*)(int32_t device, void** stream);
    static std::atomic<GetStream> found;
    GetStream get_stream = found.load(std::memory_order_relaxed);
    if (get_stream == nullptr) {
        void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
        if (library != nullptr) {
            get_stream = reinterpret_cast<GetStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
        }
        if (get_stream == nullptr) {
            return error.fail(FA3_NO_DRIVER,
                              "this torch has no libtorch_cuda.so with a current stream; install a "
                              "torch built for CUDA");
        }
        found.store(get_stream, std::memory_order_relaxed);
    }
    if (get_stream(device, stream) == 0) return FA3_OK;
    return error.fail(FA3_DRIVER_ERROR, "torch has no current stream on cuda:%d", device);
}

// Copies the tensor if the tensor copy engine cannot read its layout.
fa3_status make_readable(TorchTensor& tensor, fa3_tensor* view, Error error) {
    if (fa3_check_layout(view, tensor.argument(), nullptr, 0) == FA3_OK) return FA3_OK;
    return tensor.make_contiguous(view, error);
}

// Owns the arguments on `stack` from its first line, and puts the results there when it succeeds.
fa3_status run(StableIValue* stack, Error error) {
    TorchTensor q("q", stack[kQ]);
    TorchTensor k("k", stack[kK]);
    TorchTensor v("v", stack[kV]);
    TorchTensor out("out");
    TorchTensor lse("lse");
    const int64_t sm_margin = static_cast<int64_t>(stack[kSmMargin]);

    fa3_fwd_args args = {};
    fa3_status status = q.view(&args.q, error);
    if (status == FA3_OK) status = k.view(&args.k, error);
    if (status == FA3_OK) status = v.view(&args.v, error);
    if (status == FA3_OK) status = check_dtypes(q, k, v, error);
    if (status != FA3_OK) return status;
    if (sm_margin < 0 || sm_margin > INT32_MAX) {
        return error.fail(FA3_INVALID_ARGUMENT, "sm_margin is %lld; it should be between 0 and %d",
                          shown(sm_margin), INT32_MAX);
    }
    args.struct_size = sizeof(args);
    args.device = q.device_index();
    args.dtype = q.dtype() == aoti_torch_dtype_float16() ? FA3_FP16 : FA3_BF16;
    args.causal = as_bool(stack[kCausal]) ? 1 : 0;
    args.softmax_scale = static_cast<float>(as_double(stack[kSoftmaxScale]));
    args.sm_margin = static_cast<int32_t>(sm_margin);
    status = check_problem(args, error);
    if (status == FA3_OK) status = check_devices(q, k, v, error);
    if (status == FA3_OK) status = make_readable(q, &args.q, error);
    if (status == FA3_OK) status = make_readable(k, &args.k, error);
    if (status == FA3_OK) status = make_readable(v, &args.v, error);
    if (status != FA3_OK) return status;

    const int64_t out_shape[] = {args.q.shape[0], args.q.shape[1], args.q.shape[2], args.v.shape[3]};
    const int64_t lse_shape[] = {args.q.shape[0], args.q.shape[2], args.q.shape[1]};
    status = out.allocate(4, out_shape, q.dtype(), q, error);
    if (status == FA3_OK) status = lse.allocate(3, lse_shape, aoti_torch_dtype_float32(), q, error);
    if (status == FA3_OK) status = out.view(&args.out, error);
    if (status == FA3_OK) status = lse.data(reinterpret_cast<void**>(&args.lse), error);
    if (status == FA3_OK) status = current_stream(args.device, &args.stream, error);
    if (status == FA3_OK) status = fa3_fwd(&args, error.text, error.size);
    if (status != FA3_OK) return status;
    stack[kOut] = out.release();
    stack[kLse] = lse.release();
    return FA3_OK;
}

void fwd_operator(StableIValue* stack, uint64_t, uint64_t) {
    constexpr size_t kPrefixSize = sizeof(kPrefix) - 1;
    char message[2048];
    memcpy(message, kPrefix, sizeof(kPrefix));
    const fa3_status status = run(stack, {message + kPrefixSize, sizeof(message) - kPrefixSize});
    aoti_torch_check(status == FA3_OK, "fwd", "flash_attn3", 0, message);
}

// Operators stay registered until the process ends, so the handles are kept by nobody. A failure to register
// (this library loaded from two folders) is reported on stderr by torch itself.
__attribute__((constructor)) void register_operators() {
    TorchLibraryHandle library = nullptr;
    if (aoti_torch_library_init_def("flash_attn3", "flash_attn3", 0, &library) != 0) return;
    aoti_torch_library_def(library, kSchema);
    for (const char* dispatch_key : {"CUDA", "CPU"}) {  // on the CPU only to say that it needs a GPU
        if (aoti_torch_library_init_impl("flash_attn3", dispatch_key, "flash_attn3", 0, &library) == 0) {
            aoti_torch_library_impl(library, "fwd", fwd_operator);
        }
    }
}

}  // namespace
}  // namespace fa3
