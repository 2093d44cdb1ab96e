/* A libtorch_cpu.so with no torch in it, for tests: the functions of torch_shim.h over tensors that only have a
 * shape and an address. It counts the tensors that are alive, and throws by leaving through a jump. */
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { CPU = 0, CUDA = 1 };

typedef struct Tensor {
    int64_t rank, sizes[8], strides[8];
    int32_t dtype, device_type, device_index;
    void* data;
} Tensor;
typedef void (*Operator)(uint64_t* stack, uint64_t inputs, uint64_t outputs);

static int alive, boxes, copies, allocations, failing_allocation = -1;
static uint64_t next_address = 0x100000;
enum { ROOM = 64 };  /* for operators */
static char schemas[ROOM][1024], key[16], message[4096];
static int schema_count;
static struct { char name[32]; Operator functions[2]; } operators[ROOM];
static jmp_buf thrown;

/* The tests' side. */
EXPORT Tensor* fake_tensor(int32_t dtype, int32_t device_type, int32_t device_index, int64_t rank,
                           const int64_t* sizes, const int64_t* strides) {
    Tensor* tensor = calloc(1, sizeof(Tensor));
    *tensor = (Tensor){.rank = rank, .dtype = dtype, .device_type = device_type, .device_index = device_index};
    memcpy(tensor->sizes, sizes, (size_t)rank * sizeof(*sizes));
    memcpy(tensor->strides, strides, (size_t)rank * sizeof(*strides));
    tensor->data = (void*)(next_address += 0x1000);
    ++alive;
    return tensor;
}
EXPORT int fake_alive(void) { return alive; }
EXPORT int fake_copies(void) { return copies; }
EXPORT void fake_fail_allocation(int number) { failing_allocation = allocations + number; }
EXPORT const char* fake_schema(int i) { return i < schema_count ? schemas[i] : NULL; }
/* An optional argument that is there, as torch puts it on the stack. */
EXPORT uint64_t* fake_box(uint64_t value) {
    uint64_t* box = malloc(sizeof(*box));
    *box = value;
    ++boxes;
    return box;
}
EXPORT int fake_boxes(void) { return boxes; }
/* Null when the operator returned, else what it threw. */
EXPORT const char* fake_call(const char* name, int device_type, uint64_t* stack, uint64_t inputs, uint64_t outputs) {
    int i = 0;
    while (strcmp(operators[i].name, name) != 0) ++i;
    if (setjmp(thrown) != 0) return message;
    operators[i].functions[device_type](stack, inputs, outputs);
    return NULL;
}

/* Torch's side. */
EXPORT int32_t aoti_torch_device_type_cpu(void) { return CPU; }
EXPORT int32_t aoti_torch_device_type_cuda(void) { return CUDA; }
EXPORT int32_t aoti_torch_dtype_float16(void) { return 5; }
EXPORT int32_t aoti_torch_dtype_float32(void) { return 6; }
EXPORT int32_t aoti_torch_dtype_float64(void) { return 7; }
EXPORT int32_t aoti_torch_dtype_bfloat16(void) { return 15; }
EXPORT int32_t aoti_torch_dtype_uint8(void) { return 0; }
EXPORT int32_t aoti_torch_dtype_int8(void) { return 1; }
EXPORT int32_t aoti_torch_dtype_int32(void) { return 3; }
EXPORT int32_t aoti_torch_dtype_int64(void) { return 4; }
EXPORT int32_t aoti_torch_dtype_bool(void) { return 11; }
EXPORT int32_t aoti_torch_dtype_float8_e5m2(void) { return 23; }
EXPORT int32_t aoti_torch_dtype_float8_e4m3fn(void) { return 24; }
EXPORT int32_t aoti_torch_get_data_ptr(Tensor* tensor, void** data) { return *data = tensor->data, 0; }
EXPORT int32_t aoti_torch_get_dim(Tensor* tensor, int64_t* rank) { return *rank = tensor->rank, 0; }
EXPORT int32_t aoti_torch_get_sizes(Tensor* tensor, int64_t** sizes) { return *sizes = tensor->sizes, 0; }
EXPORT int32_t aoti_torch_get_strides(Tensor* tensor, int64_t** strides) { return *strides = tensor->strides, 0; }
EXPORT int32_t aoti_torch_get_dtype(Tensor* tensor, int32_t* dtype) { return *dtype = tensor->dtype, 0; }
EXPORT int32_t aoti_torch_get_device_type(Tensor* tensor, int32_t* type) { return *type = tensor->device_type, 0; }
EXPORT int32_t aoti_torch_get_device_index(Tensor* tensor, int32_t* index) { return *index = tensor->device_index, 0; }
EXPORT int32_t aoti_torch_delete_tensor_object(Tensor* tensor) {
    --alive;
    free(tensor);
    return 0;
}
EXPORT int32_t aoti_torch_empty_strided(int64_t rank, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t device_type, int32_t device_index, Tensor** tensor) {
    if (++allocations == failing_allocation) return 1;
    *tensor = fake_tensor(dtype, device_type, device_index, rank, sizes, strides);
    return 0;
}
EXPORT int32_t aoti_torch__reinterpret_tensor(const Tensor* self, int64_t rank, const int64_t* sizes,
                                              const int64_t* strides, int64_t offset, Tensor** tensor) {
    *tensor = fake_tensor(self->dtype, self->device_type, self->device_index, rank, sizes, strides);
    (*tensor)->data = (char*)self->data + 2 * offset; /* of two bytes each */
    return 0;
}
EXPORT int32_t aoti_torch_copy_(Tensor* self, Tensor* source, int32_t non_blocking) {
    ++copies;
    return non_blocking != 0 || memcmp(self->sizes, source->sizes, sizeof(self->sizes)) != 0;
}
EXPORT int32_t aoti_torch_library_init_fragment(const char* name, const char* file, uint32_t line, void** library) {
    (void)file, (void)line;
    *library = schemas;
    return strcmp(name, "flash_attn3") != 0;
}
EXPORT int32_t aoti_torch_library_def(void* library, const char* text) {
    if (schema_count == ROOM) abort();
    strncpy(schemas[schema_count++], text, sizeof(schemas[0]) - 1);
    return library != schemas;
}
EXPORT int32_t aoti_torch_library_init_impl(const char* name, const char* dispatch_key, const char* file,
                                            uint32_t line, void** library) {
    (void)file, (void)line;
    strncpy(key, dispatch_key, sizeof(key) - 1);
    *library = key;
    return strcmp(name, "flash_attn3") != 0;
}
EXPORT int32_t aoti_torch_library_impl(void* library, const char* name, Operator function) {
    int i = 0;
    while (operators[i].name[0] != '\0' && strcmp(operators[i].name, name) != 0) ++i;
    strncpy(operators[i].name, name, sizeof(operators[i].name) - 1);
    operators[i].functions[strcmp(library, "CUDA") == 0 ? CUDA : CPU] = function;
    return 0;
}
/* Before torch 2.13 the box of an optional argument is freed by C++'s operator delete; then it has its own function. */
static void free_box(void* box) {
    --boxes;
    free(box);
}
#ifdef OLD_TORCH
EXPORT void _ZdlPv(void* box) { free_box(box); }
#else
EXPORT int32_t torch_delete_stable_ivalue(uint64_t* box) { return free_box(box), 0; }
EXPORT void _ZdlPv(void* box) { (void)box, abort(); }
#endif
EXPORT const char* torch_exception_get_what_without_backtrace(void) { return "CUDA out of memory"; }
EXPORT void aoti_torch_check(_Bool condition, const char* function, const char* file, uint32_t line, const char* text) {
    (void)function, (void)file, (void)line;
    if (condition) return;
    strncpy(message, text, sizeof(message) - 1);
    longjmp(thrown, 1);
}
