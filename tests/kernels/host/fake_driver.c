/* A driver with no GPU behind it, for tests: it keeps the rules that the runtime must keep (contexts, capture,
 * alignment), fails as the real one does when they are broken, and remembers what it was asked.
 * A device's "memory" is the host's. Tests read its books through the fake_* functions. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900 };
enum { RELAXED = 2, MAX = 4096 };

typedef struct Encode {
    int32_t type, rank, interleave, swizzle, promotion, fill;
    uint64_t address, extents[5], strides[4];
    uint32_t box[5], element_strides[5];
} Encode;

typedef struct Launch {
    uint32_t grid[3], block[3], shared_bytes, overlaps_previous;
    uint64_t stream, function, context;
    uint8_t params[BWD_BYTES]; /* the largest; of other kernels the first bytes */
} Launch;

typedef struct Config {
    uint32_t grid[3], block[3], shared_bytes;
    void* stream;
    struct {
        uint32_t id, padding, value[16];
    }* attributes;
    uint32_t attribute_count;
} Config;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int version = 12080, devices = 2, capability = 90, multiprocessors = 132, init_result = SUCCESS;
static int shared_bytes = 232448, l2_bytes = 60 << 20, failure = 999;
static int initialized, capturing_streams, capture_broken;
static char failing[64], slow[64];
static char kernel_names[MAX][64];
static uint64_t kernel_contexts[MAX];
static int kernels, modules, unloaded;
static uint64_t stream_ids[MAX];
static uint8_t capturing[MAX];
static struct { const char* name; int calls; } books[64];
static Encode encodes[MAX];
static Launch launches[MAX];
static int encode_count, launch_count;
static uint8_t image[256];

static __thread uint64_t stack[16];
static __thread int depth;
static __thread int capture_mode;

static int begin(const char* name) {
    if (strcmp(slow, name) == 0) usleep(20000); /* leaves other threads time to ask for the same */
    pthread_mutex_lock(&mutex);
    int i = 0;
    while (books[i].name != NULL && strcmp(books[i].name, name) != 0) ++i;
    books[i].name = name;
    ++books[i].calls;
    return strcmp(failing, name) == 0 ? failure : initialized ? SUCCESS : NOT_INITIALIZED;
}
static int end(int result) {
    pthread_mutex_unlock(&mutex);
    return result;
}
static uint64_t current(void) { return depth == 0 ? 0 : stack[depth - 1]; }
static int unsafe_in_capture(void) {
    if (capturing_streams == 0 || capture_mode == RELAXED) return 0;
    capture_broken = 1;
    return 1;
}

/* The tests' side. */
EXPORT void fake_setup(int new_version, int new_devices, int new_capability, int new_init_result) {
    version = new_version, devices = new_devices, capability = new_capability, init_result = new_init_result;
}
EXPORT void fake_shared_bytes(int bytes) { shared_bytes = bytes; }
EXPORT void fake_l2_bytes(int bytes) { l2_bytes = bytes; }
EXPORT void fake_fail(const char* name, int result) {
    strncpy(failing, name, sizeof(failing) - 1);
    failure = result;
}
EXPORT void fake_slow(const char* name) { strncpy(slow, name, sizeof(slow) - 1); }
EXPORT int fake_calls(const char* name) {
    for (int i = 0; i < 64 && books[i].name != NULL; ++i)
        if (strcmp(books[i].name, name) == 0) return books[i].calls;
    return 0;
}
EXPORT void fake_capture(uint64_t stream, int on) { capturing_streams += on - capturing[stream], capturing[stream] = on; }
EXPORT int fake_capture_broken(void) { return capture_broken; }
EXPORT void fake_stream_id(uint64_t stream, uint64_t id) { stream_ids[stream] = id; }
EXPORT void fake_set_context(uint64_t context) { depth = 1, stack[0] = context; }
EXPORT uint64_t fake_context(void) { return current(); }
EXPORT int fake_depth(void) { return depth; }
EXPORT int fake_capture_mode(void) { return capture_mode; }
EXPORT int fake_modules_unloaded(void) { return unloaded; }
EXPORT const char* fake_kernel(uint64_t function) { return kernel_names[function]; }
EXPORT const uint8_t* fake_image(void) { return image; }
EXPORT int fake_encode_count(void) { return encode_count; }
EXPORT const Encode* fake_encode(int i) { return &encodes[i]; }
EXPORT int fake_launch_count(void) { return launch_count; }
EXPORT const Launch* fake_launch(int i) { return &launches[i]; }

/* The driver's side. */
EXPORT int cuDriverGetVersion(int* out) { return *out = version, SUCCESS; }
EXPORT int cuInit(unsigned flags) {
    initialized = init_result == SUCCESS;
    return end((begin("cuInit"), flags == 0 ? init_result : INVALID_VALUE));
}
EXPORT int cuGetErrorName(int result, const char** name) {
    *name = result == 999 ? "CUDA_ERROR_UNKNOWN" : result == CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : "CUDA_ERROR_OTHER";
    return SUCCESS;
}
EXPORT int cuGetErrorString(int result, const char** text) { return *text = "made to fail", result == 0; }
EXPORT int cuDeviceGetCount(int* count) {
    int result = begin("cuDeviceGetCount");
    *count = devices;
    return end(result);
}
EXPORT int cuDeviceGet(int* device, int ordinal) {
    int result = begin("cuDeviceGet");
    *device = 100 + ordinal; /* not the ordinal, so that mixing them up shows */
    return end(result ? result : ordinal < devices ? SUCCESS : INVALID_VALUE);
}
EXPORT int cuDeviceGetName(char* name, int size, int device) {
    int result = begin("cuDeviceGetName");
    strncpy(name, "Fake GPU", (size_t)size);
    return end(result ? result : device >= 100 ? SUCCESS : INVALID_VALUE);
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int device) {
    int result = begin("cuDeviceGetAttribute");
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 16 ? multiprocessors : attribute == 97 ? shared_bytes : attribute == 38 ? l2_bytes : -1;
    return end(result ? result : device >= 100 ? SUCCESS : INVALID_VALUE);
}
EXPORT int cuDevicePrimaryCtxRetain(uint64_t* context, int device) {
    int result = begin("cuDevicePrimaryCtxRetain");
    *context = 0x1000 + (uint64_t)device - 100;
    return end(result);
}
EXPORT int cuCtxGetCurrent(uint64_t* context) {
    int result = begin("cuCtxGetCurrent");
    *context = current();
    return end(result);
}
EXPORT int cuCtxPushCurrent_v2(uint64_t context) {
    int result = begin("cuCtxPushCurrent");
    if (result == SUCCESS) stack[depth++] = context;
    return end(result);
}
EXPORT int cuCtxPopCurrent_v2(uint64_t* context) {
    int result = begin("cuCtxPopCurrent");
    if (depth == 0) return end(INVALID_CONTEXT);
    *context = stack[--depth];
    return end(result);
}
EXPORT int cuModuleLoadData(uint64_t* module, const void* data) {
    int result = begin("cuModuleLoadData");
    if (result == SUCCESS && unsafe_in_capture()) result = CAPTURE_UNSUPPORTED;
    if (result == SUCCESS && current() == 0) result = INVALID_CONTEXT;
    memcpy(image, data, sizeof(image) < 128 ? sizeof(image) : 128);
    *module = (uint64_t)++modules;
    return end(result);
}
EXPORT int cuModuleUnload(uint64_t module) {
    int result = begin("cuModuleUnload");
    ++unloaded;
    return end(module ? result : INVALID_HANDLE);
}
EXPORT int cuModuleGetFunction(uint64_t* function, uint64_t module, const char* name) {
    int result = begin("cuModuleGetFunction");
    if (result != SUCCESS || module == 0) return end(result ? result : INVALID_HANDLE);
    *function = (uint64_t)++kernels;
    strncpy(kernel_names[kernels], name, 63);
    kernel_contexts[kernels] = current();
    return end(SUCCESS);
}
EXPORT int cuFuncSetAttribute(uint64_t function, int attribute, int value) {
    int result = begin("cuFuncSetAttribute");
    return end(result ? result : function && attribute == 8 && value >= 0 ? SUCCESS : INVALID_VALUE);
}
EXPORT int cuMemAlloc_v2(uint64_t* pointer, size_t bytes) {
    int result = begin("cuMemAlloc");
    if (result == SUCCESS && unsafe_in_capture()) result = CAPTURE_UNSUPPORTED;
    void* memory = aligned_alloc(512, bytes);
    memset(memory, 0xAB, bytes);
    *pointer = (uint64_t)memory;
    return end(result);
}
EXPORT int cuMemFree_v2(uint64_t pointer) {
    int result = begin("cuMemFree");
    free((void*)pointer);
    return end(result);
}
EXPORT int cuStreamCreate(uint64_t* stream, unsigned flags) {
    int result = begin("cuStreamCreate");
    *stream = MAX - 1;
    return end(result ? result : flags == 1 ? SUCCESS : INVALID_VALUE);
}
EXPORT int cuMemsetD8Async(uint64_t pointer, unsigned char value, size_t bytes, uint64_t stream) {
    int result = begin("cuMemsetD8Async");
    if (result == SUCCESS) memset((void*)pointer, value, bytes);
    return end(result ? result : stream == MAX - 1 ? SUCCESS : INVALID_HANDLE);
}
EXPORT int cuStreamSynchronize(uint64_t stream) { return end((begin("cuStreamSynchronize"), stream == MAX - 1 ? SUCCESS : CAPTURE_UNSUPPORTED)); }
EXPORT int cuStreamDestroy_v2(uint64_t stream) { return end((begin("cuStreamDestroy"), stream == MAX - 1 ? SUCCESS : INVALID_HANDLE)); }
EXPORT int cuStreamIsCapturing(uint64_t stream, int* status) {
    int result = begin("cuStreamIsCapturing");
    *status = capturing[stream];
    return end(result);
}
EXPORT int cuStreamGetId(uint64_t stream, unsigned long long* id) {
    int result = begin("cuStreamGetId");
    if (current() == 0) return end(INVALID_CONTEXT);
    /* The default stream is one in each context; handle 2 is another stream in each thread. */
    *id = stream == 0 ? 0x10000 + current() : stream == 2 ? (unsigned long long)(uintptr_t)&depth : stream_ids[stream] ? stream_ids[stream] : stream;
    return end(result);
}
EXPORT int cuThreadExchangeStreamCaptureMode(int* mode) {
    int result = begin("cuThreadExchangeStreamCaptureMode"), old = capture_mode;
    capture_mode = *mode;
    *mode = old;
    return end(result);
}
EXPORT int cuTensorMapEncodeTiled(uint64_t* map, int type, uint32_t rank, uint64_t address, const uint64_t* extents,
                                  const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                                  int interleave, int swizzle, int promotion, int fill) {
    int result = begin("cuTensorMapEncodeTiled");
    if (result != SUCCESS || rank != 5 || (uint64_t)map % 64 || address == 0 || address % 16) return end(result ? result : INVALID_VALUE);
    Encode* encode = &encodes[encode_count % MAX];
    *encode = (Encode){type, 5, interleave, swizzle, promotion, fill, address, {0}, {0}, {0}, {0}};
    for (int i = 0; i < 5; ++i) {
        if (extents[i] == 0 || extents[i] > 1ull << 32 || box[i] == 0 || box[i] > 256) return end(INVALID_VALUE);
        if (i > 0 && (strides[i - 1] % 16 || strides[i - 1] >= 1ull << 40)) return end(INVALID_VALUE);
        encode->extents[i] = extents[i], encode->box[i] = box[i], encode->element_strides[i] = element_strides[i];
        if (i > 0) encode->strides[i - 1] = strides[i - 1];
    }
    map[0] = address;
    map[1] = (uint64_t)encode_count++;
    return end(SUCCESS);
}
static size_t params_bytes(const char* kernel) {
    if (strncmp(kernel, "combine", 7) == 0) return COMBINE_BYTES;
    if (strncmp(kernel, "append", 6) == 0) return APPEND_BYTES;
    return strncmp(kernel, "bwd", 3) == 0 ? BWD_BYTES : FWD_BYTES;
}
EXPORT int cuLaunchKernelEx(const Config* config, uint64_t function, void** params, void** extra) {
    int result = begin("cuLaunchKernelEx");
    if (result == SUCCESS && (extra != NULL || function == 0 || kernel_contexts[function] != current())) result = INVALID_HANDLE;
    if (result != SUCCESS) return end(result);
    Launch* launch = &launches[launch_count++ % MAX];
    memcpy(launch->grid, config->grid, sizeof(launch->grid));
    memcpy(launch->block, config->block, sizeof(launch->block));
    launch->shared_bytes = config->shared_bytes;
    launch->overlaps_previous = 0;
    for (uint32_t i = 0; i < config->attribute_count; ++i)
        if (config->attributes[i].id == 6) launch->overlaps_previous = config->attributes[i].value[0];
    launch->stream = (uint64_t)config->stream;
    launch->function = function;
    launch->context = current();
    memcpy(launch->params, params[0], params_bytes(kernel_names[function]));
    return end(SUCCESS);
}
