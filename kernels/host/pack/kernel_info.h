// A kernel of the pack, as the C ABI describes it.
#pragma once

#include "flash_attn3.h"
#include "pack/record.h"
#include "system/error.h"

namespace fa3 {

// Fills `info`; `record` null: an empty name and no kernel.
fa3_status write_kernel_info(const Record* record, fa3_kernel_info* info, Error error);

}  // namespace fa3
