/* A libtorch_cuda.so for tests: on device i the current stream is 40 + i. */
#include <stdint.h>

__attribute__((visibility("default"))) int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
    *stream = (void*)(uintptr_t)(40 + device);
    return 0;
}
