#include "system/device.h"

#include "system/setup_lock.h"

namespace fa3 {
namespace {

Device devices[kMaxDevices];

// With the setup lock held.
fa3_status read_attributes(const cuda::Driver& driver, int ordinal, Device& device, Error error) {
    int major = 0;
    int minor = 0;
    cuda::Result result = driver.device_get(&device.handle, ordinal);
    if (result != cuda::kSuccess) return driver.fail(result, "cuDeviceGet", error);
    result = driver.device_get_name(device.name, sizeof(device.name), device.handle);
    if (result != cuda::kSuccess) return driver.fail(result, "cuDeviceGetName", error);
    const struct {
        int number;
        int* value;
    } attributes[] = {
        {cuda::kAttributeCapabilityMajor, &major},
        {cuda::kAttributeCapabilityMinor, &minor},
        {cuda::kAttributeMultiprocessorCount, &device.multiprocessors},
        {cuda::kAttributeSharedBytesPerBlock, &device.shared_bytes},
        {cuda::kAttributeL2CacheBytes, &device.l2_bytes},
    };
    for (const auto& attribute : attributes) {
        result = driver.device_get_attribute(attribute.value, attribute.number, device.handle);
        if (result != cuda::kSuccess) return driver.fail(result, "cuDeviceGetAttribute", error);
    }
    device.ordinal = ordinal;
    device.sm = 10 * major + minor;
    device.described.store(true, std::memory_order_release);
    return FA3_OK;
}

}  // namespace

fa3_status get_device(const cuda::Driver& driver, int ordinal, Device** device, Error error) {
    if (ordinal < 0 || ordinal >= driver.device_count || ordinal >= kMaxDevices) {
        return error.fail(FA3_INVALID_ARGUMENT, "device is %d; the driver sees %d CUDA device%s", ordinal,
                          driver.device_count, driver.device_count == 1 ? "" : "s");
    }
    *device = &devices[ordinal];
    if ((*device)->described.load(std::memory_order_acquire)) return FA3_OK;

    SetupLock lock;
    return (*device)->described.load() ? FA3_OK : read_attributes(driver, ordinal, **device, error);
}

fa3_status ContextScope::enter(Device& device, Error error) {
    cuda::Context context = device.context.load(std::memory_order_acquire);
    if (context == nullptr) {
        SetupLock lock;
        context = device.context.load();
        if (context == nullptr) {
            const cuda::CaptureRelaxed relaxed(driver_);
            const cuda::Result result = driver_.primary_context_retain(&context, device.handle);
            if (result != cuda::kSuccess) return driver_.fail(result, "cuDevicePrimaryCtxRetain", error);
            device.context.store(context, std::memory_order_release);
        }
    }
    cuda::Context current = nullptr;
    cuda::Result result = driver_.context_get_current(&current);
    if (result != cuda::kSuccess) return driver_.fail(result, "cuCtxGetCurrent", error);
    if (current == context) return FA3_OK;
    result = driver_.context_push(context);
    if (result != cuda::kSuccess) return driver_.fail(result, "cuCtxPushCurrent", error);
    pushed_ = true;
    return FA3_OK;
}

ContextScope::~ContextScope() {
    cuda::Context popped = nullptr;
    if (pushed_) driver_.context_pop(&popped);
}

}  // namespace fa3
