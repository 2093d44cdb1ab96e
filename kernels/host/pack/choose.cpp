#include "pack/choose.h"

#include <algorithm>
#include <atomic>

namespace fa3 {
namespace {

constexpr uint32_t kAllCodes = (1u << kCodes) - 1;
constexpr int kSmsPerMajor = 10;

std::atomic<uint32_t> allowed_codes{kAllCodes};
std::atomic<int32_t> least_seqlen_q{0};  // that is assumed

bool is_allowed(Code code) {
    return allowed_codes.load(std::memory_order_relaxed) >> static_cast<int>(code) & 1;
}

bool has_instructions(const KernelKey& key, int sm) {
    if (key.code == Code::kExact) return key.sm == sm;
    return key.sm <= sm && (key.code == Code::kPtx || key.sm / kSmsPerMajor == sm / kSmsPerMajor);
}

bool runs_on(const KernelKey& key, const Device& device) {
    return has_instructions(key, device.sm) && key.smem_bytes <= static_cast<uint32_t>(device.shared_bytes) &&
           is_allowed(key.code);
}

bool covers(const KernelKey& key, const Wanted& wanted) {
    return key.head_dim >= wanted.head_dim && key.head_dim_v >= wanted.head_dim_v;
}

// Columns of k and v that it works on for each key, in whole slices of v.
int64_t columns(const KernelKey& key, const Wanted& wanted) {
    int64_t columns_v = key.slice_columns;
    while (columns_v < wanted.head_dim_v) columns_v += key.slice_columns;
    return key.head_dim + columns_v;
}

bool is_better(const KernelKey& key, const KernelKey& other, const Wanted& wanted) {
    if (key.code != other.code) return key.code < other.code;
    if (key.sm != other.sm) return key.sm > other.sm;
    const int64_t work = columns(key, wanted);
    const int64_t other_work = columns(other, wanted);
    if (work != other_work) return work < other_work;
    if (key.head_dim != other.head_dim) return key.head_dim < other.head_dim;
    return key.min_seqlen_q > other.min_seqlen_q;
}

// As "sm_90a", "sm_80" or "sm_80 PTX".
void append_target(Text& text, const KernelKey& key) {
    text.append("sm_%u%s", key.sm, key.code == Code::kExact ? "a" : key.code == Code::kPtx ? " PTX" : "");
}

bool same_target(const KernelKey& a, const KernelKey& b) { return a.sm == b.sm && a.code == b.code; }

bool is_listed(const Pack& pack, uint32_t index) {
    for (uint32_t i = 0; i < index; ++i) {
        if (same_target(pack.keys[i], pack.keys[index])) return true;
    }
    return false;
}

// How many kernels of each op there are for each target, as "sm_90a (36 fwd), sm_80 (14 fwd, 1 combine)".
void append_contents(Text& text, const Pack& pack) {
    if (pack.count == 0) text.append("no kernel");
    for (uint32_t i = 0; i < pack.count; ++i) {
        if (is_listed(pack, i)) continue;
        text.append(i == 0 ? "" : ", ");
        append_target(text, pack.keys[i]);
        const char* separator = " (";
        for (Op op : {Op::kFwd, Op::kCombine, Op::kOther}) {
            unsigned count = 0;
            for (uint32_t j = i; j < pack.count; ++j) {
                count += same_target(pack.keys[i], pack.keys[j]) && pack.keys[j].op == op;
            }
            if (count == 0) continue;
            text.append("%s%u %s", separator, count, op_name(op));
            separator = ", ";
        }
        text.append(")");
    }
}

// The head dimensions of the kernels that would serve any, as "64/64, 192/128", each once.
void append_head_dims(Text& text, const Pack& pack, const Device& device, const Wanted& wanted) {
    const uint32_t asked = service(wanted.op, wanted.dtype, wanted.mask);
    const auto serves = [&](const KernelKey& key) {
        return runs_on(key, device) && (key.services & asked) != 0 && key.min_seqlen_q == 0;
    };
    for (uint32_t i = 0; i < pack.count; ++i) {
        const KernelKey& key = pack.keys[i];
        bool is_new = serves(key);
        for (uint32_t j = 0; is_new && j < i; ++j) {
            const KernelKey& other = pack.keys[j];
            is_new = !serves(other) || key.head_dim != other.head_dim || key.head_dim_v != other.head_dim_v;
        }
        if (is_new) text.append("%s%u/%u", text.length == 0 ? "" : ", ", key.head_dim, key.head_dim_v);
    }
    if (text.length == 0) text.append("none");
}

}  // namespace

fa3_status check_device(const Pack& pack, const Device& device, Error error) {
    for (uint32_t i = 0; i < pack.count; ++i) {
        if (runs_on(pack.keys[i], device)) return FA3_OK;
    }
    Text contents;
    append_contents(contents, pack);
    const bool all = allowed_codes.load() == kAllCodes;
    return error.fail(FA3_UNSUPPORTED, "device %d (%s, sm_%d) has no kernel%s; this build holds %s",
                      device.ordinal, device.name, device.sm, all ? "" : " that is allowed", contents.data);
}

fa3_status choose_kernel(const Pack& pack, const Device& device, const Wanted& wanted, const Kernel** kernel,
                         Error error) {
    const uint32_t asked = service(wanted.op, wanted.dtype, wanted.mask);
    const int64_t seqlen_q = std::max<int64_t>(wanted.seqlen_q, least_seqlen_q.load(std::memory_order_relaxed));
    const KernelKey* best = nullptr;
    for (uint32_t i = 0; i < pack.count; ++i) {
        const KernelKey& key = pack.keys[i];
        if ((key.services & asked) == 0 || key.min_seqlen_q > seqlen_q) continue;
        if (!covers(key, wanted) || !runs_on(key, device)) continue;
        if (best == nullptr || is_better(key, *best, wanted)) best = &key;
    }
    if (best != nullptr) {
        *kernel = &pack.kernels[best - pack.keys];
        return FA3_OK;
    }
    if (fa3_status status = check_device(pack, device, error); status != FA3_OK) return status;
    if (wanted.op != Op::kFwd) {
        Text contents;
        append_contents(contents, pack);
        return error.fail(FA3_UNSUPPORTED, "no %s kernel for sm_%d; this build holds %s", op_name(wanted.op),
                          device.sm, contents.data);
    }
    constexpr const char* kDtypeNames[] = {"fp16", "bf16"};
    const char* dtype = kDtypeNames[wanted.dtype];
    Text head_dims;
    append_head_dims(head_dims, pack, device, wanted);
    return error.fail(
        FA3_UNSUPPORTED,
        "no fwd kernel for %s, head_dim %lld, head_dim of v %lld, mask %s on sm_%d; those of this "
        "build for %s and this mask have head_dim/head_dim of v up to: %s",
        dtype, shown(wanted.head_dim), shown(wanted.head_dim_v), mask_name(wanted.mask), device.sm, dtype,
        head_dims.data);
}

fa3_status allow_kernels(uint32_t codes, int32_t seqlen_q, Error error) {
    if (codes == 0 || codes > kAllCodes) {
        return error.fail(FA3_INVALID_ARGUMENT,
                          "codes is %u; it should be a sum of 1 (exact), 2 (portable) and 4 (PTX)", codes);
    }
    if (seqlen_q < 0) {
        return error.fail(FA3_INVALID_ARGUMENT, "seqlen_q is %d; it should be 0 or more", seqlen_q);
    }
    allowed_codes.store(codes);
    least_seqlen_q.store(seqlen_q);
    return FA3_OK;
}

}  // namespace fa3
