// Values that all lanes of a warp share.
#pragma once

#include <cute/config.hpp>

namespace fa3 {

// `value`, which all lanes have: behind a shuffle, the compiler keeps it, and what follows from it, in uniform registers.
CUTE_DEVICE int uniform(int value) { return __reduce_or_sync(0xFFFFFFFF, value); }

}  // namespace fa3
