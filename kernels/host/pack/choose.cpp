#include "pack/choose.h"

#include <atomic>

#include "attention/dtype.h"

namespace fa3 {
namespace {

constexpr uint32_t kAllCodes = (1u << kCodes) - 1;
constexpr int kSmsPerMajor = 10;

std::atomic<uint32_t> allowed_codes{kAllCodes};
std::atomic<int32_t> least_seqlen_q{0};

bool is_allowed(Code code) {
    return allowed_codes.load(std::memory_order_relaxed) >> static_cast<int>(code) & 1;
}

bool has_instructions(const Key& key, int sm) {
    if (key.code == Code::kExact) return key.sm == sm;
    return key.sm <= sm && (key.code == Code::kPtx || key.sm / kSmsPerMajor == sm / kSmsPerMajor);
}

bool can_run_on(const Key& key, const Device& device) {
    return has_instructions(key, device.sm) && key.smem_bytes <= static_cast<uint32_t>(device.shared_bytes);
}

bool runs_on(const Key& key, const Device& device) { return can_run_on(key, device) && is_allowed(key.code); }

bool takes_dtype(uint8_t dtype, int32_t wanted) { return dtype == wanted || dtype == kAnyDtype; }

// As "sm_90a", "sm_80" or "sm_80 PTX".
void append_target(Text& text, const Key& key) {
    text.append("sm_%u%s", key.sm, key.code == Code::kExact ? "a" : key.code == Code::kPtx ? " PTX" : "");
}

bool same_target(const Key& a, const Key& b) { return a.sm == b.sm && a.code == b.code; }

// Whether an earlier kernel of the pack is like this one.
template <typename IsLike>
bool is_listed(const Pack& pack, uint32_t index, const IsLike& is_like) {
    for (uint32_t i = 0; i < index; ++i) {
        if (is_like(pack.keys[i], pack.keys[index])) return true;
    }
    return false;
}

bool same_target_and_op(const Key& a, const Key& b) { return same_target(a, b) && a.op == b.op; }

// The number of kernels of each operator for each target, as "sm_90a (36 fwd), sm_80 (14 fwd, 1 combine)".
void append_contents(Text& text, const Pack& pack) {
    if (pack.count == 0) text.append("no kernel");
    for (uint32_t i = 0; i < pack.count; ++i) {
        if (is_listed(pack, i, same_target)) continue;
        text.append(i == 0 ? "" : ", ");
        append_target(text, pack.keys[i]);
        const char* separator = " (";
        for (uint32_t j = i; j < pack.count; ++j) {
            const Key& first = pack.keys[j];
            if (!same_target(pack.keys[i], first) || is_listed(pack, j, same_target_and_op)) continue;
            unsigned count = 0;
            for (uint32_t k = j; k < pack.count; ++k) count += same_target_and_op(first, pack.keys[k]);
            text.append("%s%u %s", separator, count, first.op.text);
            separator = ", ";
        }
        text.append(")");
    }
}

// The head dimensions of the kernels that serve the call but for these, as "64/64, 192/128", each once.
void append_head_dims(Text& text, const Pack& pack, const Device& device, const Wanted& wanted) {
    const auto like = [&](const Key& a, const Key& b) {
        return serves_type(a, device, wanted) && a.head_dim == b.head_dim && a.head_dim_v == b.head_dim_v;
    };
    for (uint32_t i = 0; i < pack.count; ++i) {
        const Key& key = pack.keys[i];
        if (!serves_type(key, device, wanted) || is_listed(pack, i, like)) continue;
        text.append("%s%u/%u", text.length == 0 ? "" : ", ", key.head_dim, key.head_dim_v);
    }
    if (text.length == 0) text.append("none");
}

}  // namespace

bool suits(const Key& key, const Device& device, const Wanted& wanted) {
    return takes_dtype(key.dtype_in, wanted.dtype_in) && takes_dtype(key.dtype_out, wanted.dtype_out) &&
           (key.masks >> static_cast<int>(wanted.mask) & 1) != 0 && can_run_on(key, device) &&
           (wanted.any_code || is_allowed(key.code));
}

int compare_targets(const Key& a, const Key& b) {
    if (a.code != b.code) return a.code < b.code ? -1 : 1;
    return a.sm == b.sm ? 0 : a.sm > b.sm ? -1 : 1;
}

fa3_status check_device(const Pack& pack, const Device& device, const char* op, Error error) {
    for (uint32_t i = 0; i < pack.count; ++i) {
        const Key& key = pack.keys[i];
        if (runs_on(key, device) && (op == nullptr || strcmp(key.op.text, op) == 0)) return FA3_OK;
    }
    Text contents;
    append_contents(contents, pack);
    const bool all = allowed_codes.load() == kAllCodes;
    return error.fail(FA3_UNSUPPORTED, "device %d (%s, sm_%d) has no %s%skernel%s; this build holds %s",
                      device.ordinal, device.name, device.sm, op == nullptr ? "" : op,
                      op == nullptr ? "" : " ", all ? "" : " that is allowed", contents.data);
}

fa3_status fail_choice(const Pack& pack, const Device& device, const Wanted& wanted, Error error) {
    if (fa3_status status = check_device(pack, device, nullptr, error); status != FA3_OK) return status;
    if (wanted.head_dim == 0) {  // an operator without head dimensions
        Text contents;
        append_contents(contents, pack);
        return error.fail(FA3_UNSUPPORTED, "no %s kernel for sm_%d; this build holds %s", wanted.op.text,
                          device.sm, contents.data);
    }
    const char* dtype = info_of(wanted.dtype_in).name;
    Text head_dims;
    append_head_dims(head_dims, pack, device, wanted);
    return error.fail(
        FA3_UNSUPPORTED,
        "no %s kernel for %s, head_dim %lld, head_dim of v %lld, mask %s on sm_%d; those of this "
        "build for %s and this mask have head_dim/head_dim of v up to: %s",
        wanted.op.text, dtype, shown(wanted.head_dim), shown(wanted.head_dim_v), mask_name(wanted.mask),
        device.sm, dtype, head_dims.data);
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

int32_t assumed_seqlen_q() { return least_seqlen_q.load(std::memory_order_relaxed); }

}  // namespace fa3
