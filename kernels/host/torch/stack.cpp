#include "torch/stack.h"

#include <string.h>

#include <new>

namespace fa3 {

StableIValue unbox(StableIValue box) {
    StableIValue* inner = reinterpret_cast<StableIValue*>(box);
    const StableIValue value = *inner;
    if (torch_delete_stable_ivalue != nullptr) {
        torch_delete_stable_ivalue(inner);
    } else {
        ::operator delete(inner);  // torch's own: its libraries come first in the search
    }
    return value;
}

double as_double(StableIValue value) {
    double number;
    memcpy(&number, &value, sizeof(number));
    return number;
}

bool as_bool(StableIValue value) { return (value & 0xff) != 0; }

std::optional<double> take_double(StableIValue box) {
    if (box == 0) return {};
    return as_double(unbox(box));
}

fa3_status read_int(StableIValue value, const char* argument, int32_t least, int32_t* number, Error error) {
    const int64_t given = static_cast<int64_t>(value);
    if (given < least || given > INT32_MAX) {
        return error.fail(FA3_INVALID_ARGUMENT, "%s is %lld; it should be between %d and %d", argument,
                          shown(given), least, INT32_MAX);
    }
    *number = static_cast<int32_t>(given);
    return FA3_OK;
}

}  // namespace fa3
