#include "pack/loader.h"

#include <stdlib.h>

#include "system/setup_lock.h"

namespace fa3 {
namespace {

// A driver compiles PTX of toolkits that are no newer than itself.
fa3_status fail_load(const cuda::Driver& driver, const Record& record, cuda::Result result, Error error) {
    if (result != cuda::kErrorUnsupportedPtx) return driver.fail(result, "cuModuleLoadData", error);
    return error.fail(
        FA3_NO_DRIVER,
        "the CUDA driver supports CUDA %d.%d and cannot compile kernel %s, which is PTX of CUDA "
        "%s; install a driver of CUDA %s or newer",
        driver.version / 1000, driver.version % 1000 / 10, record.name, record.toolkit, record.toolkit);
}

// With the setup lock held.
fa3_status load(const cuda::Driver& driver, const Pack& pack, const Record& record, cuda::Function* function,
                Error error) {
    void* image = nullptr;
    if (fa3_status status = read_image(pack, record, &image, error); status != FA3_OK) return status;

    const cuda::CaptureRelaxed relaxed(driver);
    cuda::Module module = nullptr;
    cuda::Result result = driver.module_load_data(&module, image);
    free(image);
    if (result != cuda::kSuccess) return fail_load(driver, record, result, error);

    const char* call = "cuModuleGetFunction";
    result = driver.module_get_function(function, module, record.name);
    if (result == cuda::kSuccess) {
        call = "cuFuncSetAttribute";
        result = driver.function_set_attribute(*function, cuda::kFunctionMaxDynamicSharedBytes,
                                               static_cast<int>(record.smem_bytes));
    }
    if (result != cuda::kSuccess) {
        driver.module_unload(module);
        return driver.fail(result, call, error);
    }
    return FA3_OK;
}

}  // namespace

fa3_status get_function(const cuda::Driver& driver, const Device& device, const Pack& pack,
                        const Record& record, cuda::Function* function, Error error) {
    const size_t index = static_cast<size_t>(&record - pack.records);
    std::atomic<cuda::Function>& loaded =
        pack.loaded[static_cast<size_t>(device.ordinal) * pack.count + index];
    *function = loaded.load(std::memory_order_acquire);
    if (*function != nullptr) return FA3_OK;

    SetupLock lock;
    *function = loaded.load();
    if (*function != nullptr) return FA3_OK;
    if (fa3_status status = load(driver, pack, record, function, error); status != FA3_OK) return status;
    loaded.store(*function, std::memory_order_release);
    return FA3_OK;
}

}  // namespace fa3
