#include "system/driver.h"

#include <pthread.h>

#include <atomic>

#include "system/library.h"
#include "system/setup_lock.h"

namespace fa3::cuda {
namespace {

constexpr char kLibrary[] = "libcuda.so.1";
constexpr int kOldestVersion = 12000;  // tensor maps, stream ids and 12.x cubins need it

Driver the_driver;
std::atomic<const Driver*> ready_driver;
std::atomic<bool> forked;

void mark_forked() {
    if (ready_driver.load() != nullptr) forked.store(true);
}

__attribute__((constructor)) void watch_forks() { pthread_atfork(nullptr, nullptr, mark_forked); }

// Looks up functions and keeps the name of the first that is missing.
class Resolver {
  public:
    explicit Resolver(void* library) : library_(library) {}

    template <typename FunctionPointer>
    void find(FunctionPointer& function, const char* name) {
        void* symbol = find_symbol(library_, name);
        function = reinterpret_cast<FunctionPointer>(symbol);
        if (symbol == nullptr && missing_ == nullptr) missing_ = name;
    }

    const char* missing() const { return missing_; }

  private:
    void* library_;
    const char* missing_ = nullptr;
};

const char* find_functions(void* library, Driver& driver) {
    Resolver resolver(library);
    resolver.find(driver.init, "cuInit");
    resolver.find(driver.driver_get_version, "cuDriverGetVersion");
    resolver.find(driver.get_error_name, "cuGetErrorName");
    resolver.find(driver.get_error_string, "cuGetErrorString");
    resolver.find(driver.device_get, "cuDeviceGet");
    resolver.find(driver.device_get_count, "cuDeviceGetCount");
    resolver.find(driver.device_get_name, "cuDeviceGetName");
    resolver.find(driver.device_get_attribute, "cuDeviceGetAttribute");
    resolver.find(driver.primary_context_retain, "cuDevicePrimaryCtxRetain");
    resolver.find(driver.context_get_current, "cuCtxGetCurrent");
    resolver.find(driver.context_push, "cuCtxPushCurrent_v2");
    resolver.find(driver.context_pop, "cuCtxPopCurrent_v2");
    resolver.find(driver.module_load_data, "cuModuleLoadData");
    resolver.find(driver.module_unload, "cuModuleUnload");
    resolver.find(driver.module_get_function, "cuModuleGetFunction");
    resolver.find(driver.function_set_attribute, "cuFuncSetAttribute");
    resolver.find(driver.memory_allocate, "cuMemAlloc_v2");
    resolver.find(driver.memory_free, "cuMemFree_v2");
    resolver.find(driver.memory_set_async, "cuMemsetD8Async");
    resolver.find(driver.stream_create, "cuStreamCreate");
    resolver.find(driver.stream_synchronize, "cuStreamSynchronize");
    resolver.find(driver.stream_destroy, "cuStreamDestroy_v2");
    resolver.find(driver.stream_get_id, "cuStreamGetId");
    resolver.find(driver.stream_is_capturing, "cuStreamIsCapturing");
    resolver.find(driver.exchange_capture_mode, "cuThreadExchangeStreamCaptureMode");
    resolver.find(driver.tensor_map_encode_tiled, "cuTensorMapEncodeTiled");
    resolver.find(driver.launch, "cuLaunchKernelEx");
    return resolver.missing();
}

fa3_status load(Driver& driver, Error error) {
    void* library = open_library(kLibrary);
    if (library == nullptr) {
        return error.fail(FA3_NO_DRIVER, "the CUDA driver was not found: %s", library_error());
    }
    // The version comes first: an old driver lacks functions, and an error with its version is clearer than
    // one with their names.
    Resolver(library).find(driver.driver_get_version, "cuDriverGetVersion");
    if (driver.driver_get_version == nullptr || driver.driver_get_version(&driver.version) != kSuccess) {
        return error.fail(FA3_NO_DRIVER, "%s does not report a driver version; CUDA %d.%d or newer is needed",
                          kLibrary, kOldestVersion / 1000, kOldestVersion % 1000 / 10);
    }
    if (driver.version < kOldestVersion) {
        return error.fail(FA3_NO_DRIVER, "the CUDA driver supports CUDA %d.%d; %d.%d or newer is needed",
                          driver.version / 1000, driver.version % 1000 / 10, kOldestVersion / 1000,
                          kOldestVersion % 1000 / 10);
    }
    if (const char* missing = find_functions(library, driver); missing != nullptr) {
        return error.fail(FA3_NO_DRIVER, "%s has no function %s", kLibrary, missing);
    }
    Result result = driver.init(0);
    if (result == kErrorNotInitialized) {
        return error.fail(FA3_DRIVER_ERROR,
                          "CUDA cannot be used in a process forked after its parent used CUDA; start it with "
                          "the spawn method");
    }
    if (result == kSuccess) result = driver.device_get_count(&driver.device_count);
    if (result == kErrorNoDevice) driver.device_count = 0;
    if (result != kSuccess && result != kErrorNoDevice) {
        driver.fail(result, "cuInit", error);
        return FA3_NO_DRIVER;
    }
    return FA3_OK;
}

}  // namespace

fa3_status Driver::fail(Result result, const char* call, Error error) const {
    const char* name = nullptr;
    const char* text = nullptr;
    get_error_name(result, &name);
    get_error_string(result, &text);
    return error.fail(FA3_DRIVER_ERROR, "%s failed with %s (%d): %s", call, name ? name : "an unknown error",
                      result, text ? text : "no description");
}

fa3_status get_driver(const Driver** driver, Error error) {
    if (forked.load(std::memory_order_relaxed)) {
        return error.fail(FA3_DRIVER_ERROR,
                          "this process was forked after CUDA was first used, and CUDA does not survive a "
                          "fork; start it with the spawn method");
    }
    *driver = ready_driver.load(std::memory_order_acquire);
    if (*driver != nullptr) return FA3_OK;

    SetupLock lock;
    if (ready_driver.load() == nullptr) {
        if (fa3_status status = load(the_driver, error); status != FA3_OK) return status;
        ready_driver.store(&the_driver, std::memory_order_release);
    }
    *driver = &the_driver;
    return FA3_OK;
}

}  // namespace fa3::cuda
