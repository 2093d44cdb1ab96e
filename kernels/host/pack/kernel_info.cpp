#include "pack/kernel_info.h"

#include "system/structure.h"

namespace fa3 {

fa3_status write_kernel_info(const Record* record, fa3_kernel_info* info, Error error) {
    fa3_kernel_info value = {};
    if (record != nullptr) {
        static_assert(
            sizeof(value.name) == sizeof(record->name) && sizeof(value.op) == sizeof(record->op.text) &&
            sizeof(value.mask) == sizeof(record->mask) && sizeof(value.toolkit) == sizeof(record->toolkit));
        memcpy(value.name, record->name, sizeof(value.name));
        memcpy(value.op, record->op.text, sizeof(value.op));
        memcpy(value.mask, record->mask, sizeof(value.mask));
        memcpy(value.toolkit, record->toolkit, sizeof(value.toolkit));
        value.sm = static_cast<int32_t>(record->sm);
        value.code = static_cast<int32_t>(record->code);
        value.dtype_in = static_cast<int32_t>(record->dtype_in);
        value.dtype_out = static_cast<int32_t>(record->dtype_out);
        value.head_dim = static_cast<int32_t>(record->head_dim);
        value.head_dim_v = static_cast<int32_t>(record->head_dim_v);
    }
    return write_struct(value, "info", "fa3_kernel_info", info, error);
}

}  // namespace fa3
