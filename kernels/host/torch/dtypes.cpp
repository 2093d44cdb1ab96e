#include "torch/dtypes.h"

#include "flash_attn3.h"
#include "torch/shim.h"

namespace fa3 {

int32_t dtype_of_torch(int32_t torch_dtype) {
    if (torch_dtype == aoti_torch_dtype_bfloat16()) return FA3_BF16;
    if (torch_dtype == aoti_torch_dtype_float16()) return FA3_FP16;
    return torch_dtype == aoti_torch_dtype_float32() ? FA3_FP32 : -1;
}

int32_t torch_dtype_of(int32_t dtype) {
    switch (dtype) {
        case FA3_FP16:
            return aoti_torch_dtype_float16();
        case FA3_BF16:
            return aoti_torch_dtype_bfloat16();
        case FA3_FP32:
            return aoti_torch_dtype_float32();
        default:
            return -1;
    }
}

void append_dtype(Text& text, int32_t torch_dtype) {
    const struct {
        int32_t dtype;
        const char* name;
    } known[] = {
        {aoti_torch_dtype_float16(), "float16"},
        {aoti_torch_dtype_bfloat16(), "bfloat16"},
        {aoti_torch_dtype_float32(), "float32"},
        {aoti_torch_dtype_float64(), "float64"},
        {aoti_torch_dtype_float8_e4m3fn(), "float8_e4m3fn"},
        {aoti_torch_dtype_float8_e5m2(), "float8_e5m2"},
        {aoti_torch_dtype_int8(), "int8"},
        {aoti_torch_dtype_uint8(), "uint8"},
        {aoti_torch_dtype_int32(), "int32"},
        {aoti_torch_dtype_int64(), "int64"},
        {aoti_torch_dtype_bool(), "bool"},
    };
    for (const auto& entry : known) {
        if (entry.dtype == torch_dtype) return text.append("%s", entry.name);
    }
    text.append("number %d of torch's scalar types", torch_dtype);
}

}  // namespace fa3
