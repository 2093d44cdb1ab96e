// Integers of fixed size, for NVRTC, which has no <cstdint>, and for the C++17 host.
#pragma once

#ifdef __CUDACC_RTC__
using fa3_i32 = int;
using fa3_i64 = long long;
using fa3_u32 = unsigned int;
using fa3_u64 = unsigned long long;
#else
#include <cstdint>
using fa3_i32 = std::int32_t;
using fa3_i64 = std::int64_t;
using fa3_u32 = std::uint32_t;
using fa3_u64 = std::uint64_t;
#endif
