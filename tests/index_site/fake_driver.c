/* A CUDA driver with one GPU, as doctor.py asks one, described by the environment. */
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

static int number(const char* name) {
    const char* text = getenv(name);
    return text == NULL ? 0 : atoi(text);
}

EXPORT int cuDriverGetVersion(int* version) { return *version = number("FAKE_CUDA"), 0; }
EXPORT int cuInit(unsigned flags) { return flags == 0 ? number("FAKE_INIT") : 1; }
EXPORT int cuDeviceGetCount(int* count) { return *count = number("FAKE_SM") != 0, 0; }
EXPORT int cuDeviceGet(int* device, int ordinal) { return *device = 100 + ordinal, ordinal != 0; }
EXPORT int cuDeviceGetName(char* name, int size, int device) {
    strncpy(name, "Fake GPU", (size_t)size);
    return device != 100;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = attribute == 75 ? number("FAKE_SM") / 10 : attribute == 76 ? number("FAKE_SM") % 10 : -1;
    return device != 100;
}
EXPORT int cuGetErrorName(int result, const char** name) {
    *name = result == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : "CUDA_ERROR_OTHER";
    return 0;
}
