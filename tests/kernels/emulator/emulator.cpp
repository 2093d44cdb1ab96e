// Runs the thread blocks of one kernel on the CPU, one after another; every thread of a block is a fiber.
//
// A warp runs until it must wait, then the next one does, in changing order. A missing barrier thus shows as a warp that
// runs ahead. Macros: SOURCE, the kernel's file; PARAMS, the type of its parameters; FA3_*, the variant.
#include <ucontext.h>

#include "arch/sm80/instructions.cuh"

Index threadIdx;
Index blockIdx;
Index gridDim;
extern "C" {
alignas(1024) unsigned char smem[emulator::kMostShared];
}

#include SOURCE

namespace emulator {
namespace {

// Fixed sizes: the C++ library is not linked, which would take a minute to build.
constexpr size_t kStackBytes = 64 * 1024;
constexpr int kMostThreads = 256;
constexpr int kMostCopies = 512;
constexpr size_t kChunkBytes = 16;
constexpr size_t kLargestValue = 64;  // input of a lane to a collective, bytes
constexpr int kBanksOfChunks = 8;     // 128 bytes, all banks once

struct Copy {
    uint32_t to;
    int group;
    unsigned char data[kChunkBytes];
};

using Place = void*[5];  // continuation: frame, address, stack, and two for the compiler

struct Fiber {
    ucontext_t context;  // of its start
    Place place;         // of the wait that it is in
    bool started;
    alignas(16) char stack[kStackBytes];
    Copy copies[kMostCopies];  // in flight
    int copy_count;
    int groups;  // committed and in flight
    bool done;
};

struct Warp {
    alignas(16) unsigned char in[kLanes * kLargestValue];
    alignas(16) unsigned char out[2][kLanes * kLargestValue];  // a lane may still read the results before
    int arrived;
    unsigned meetings;
};

struct Block {
    Fiber fibers[kMostThreads];
    Warp warps[kMostThreads / kLanes];
    int threads;
    int arrived;
    unsigned meetings;
    size_t shared_bytes;
};

Block block;
ucontext_t scheduler_context;
Place scheduler;
int current;
alignas(64) PARAMS params;
char const* failure;
int bank_conflicts;

// Instead of swapcontext alone, which makes a system call for the signal mask: there are millions of switches.
[[noreturn, gnu::noinline]] void go_on_at(Place& place) { __builtin_longjmp(place, 1); }

[[gnu::noinline]] void leave() {
    if (__builtin_setjmp(block.fibers[current].place) == 0) go_on_at(scheduler);
}

[[gnu::noinline]] void resume(Fiber& fiber) {
    if (__builtin_setjmp(scheduler) != 0) return;
    if (fiber.started) go_on_at(fiber.place);
    fiber.started = true;
    swapcontext(&scheduler_context, &fiber.context);
}

void run_thread() {
    FA3_KERNEL(params);
    block.fibers[current].done = true;
    leave();
}

void check_shared(uint32_t address) {
    if (address % kChunkBytes != 0) fail("a chunk of shared memory is not aligned");
    if (address + kChunkBytes > block.shared_bytes) fail("an address lies behind the shared memory of the block");
}

void start_block(int index) {
    blockIdx.x = index;
    memset(smem, 0xFF, sizeof smem);  // NaN
    block.arrived = 0;
    for (Warp& warp : block.warps) warp.arrived = 0;
    for (int thread = 0; thread < block.threads; ++thread) {
        Fiber& fiber = block.fibers[thread];
        fiber.done = false;
        fiber.started = false;
        fiber.copy_count = 0;
        fiber.groups = 0;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_thread, 0);
    }
}

// Runs every thread of a warp to its next wait. Returns whether one of them is not done.
bool run_warp(int warp) {
    bool alive = false;
    for (int lane = 0; lane < kLanes && failure == nullptr; ++lane) {
        int const thread = warp * kLanes + lane;
        if (block.fibers[thread].done) continue;
        alive = true;
        current = thread;
        threadIdx.x = thread;
        resume(block.fibers[thread]);
    }
    return alive;
}

unsigned progress() {
    unsigned sum = block.meetings;
    for (Warp const& warp : block.warps) sum += warp.meetings;
    for (int thread = 0; thread < block.threads; ++thread) sum += block.fibers[thread].done ? 1 : 0;
    return sum;
}

void run_block() {
    int const warps = block.threads / kLanes;
    bool alive = true;
    for (int round = 0; alive && failure == nullptr; ++round) {
        alive = false;
        unsigned const before = progress();
        for (int turn = 0; turn < warps; ++turn) {
            int const warp = (turn * (warps - 1) + blockIdx.x + round) % warps;
            unsigned meetings;
            do {
                meetings = block.warps[warp].meetings;
                alive |= run_warp(warp);
            } while (meetings != block.warps[warp].meetings && failure == nullptr);
        }
        if (alive && failure == nullptr && progress() == before) failure = "the threads of a block wait for one another";
    }
}

}  // namespace

void fail(char const* message) {
    failure = message;
    while (true) leave();  // nothing runs this fiber again
}

void meet_warp(void const* in, size_t in_bytes, void* out, size_t out_bytes,
               void (*together)(void const* in, void* out)) {
    if (in_bytes > kLargestValue || out_bytes > kLargestValue) fail("a value is too large for a collective of a warp");
    Warp& warp = block.warps[current / kLanes];
    int const lane = current % kLanes;
    unsigned const meeting = warp.meetings;
    unsigned char* const results = warp.out[meeting % 2];
    memcpy(warp.in + lane * in_bytes, in, in_bytes);
    if (++warp.arrived == kLanes) {
        together(warp.in, results);
        warp.arrived = 0;
        ++warp.meetings;
    }
    while (warp.meetings == meeting) leave();
    memcpy(out, results + lane * out_bytes, out_bytes);
}

void meet_block() {
    unsigned const meeting = block.meetings;
    if (++block.arrived == block.threads) {
        block.arrived = 0;
        ++block.meetings;
    }
    while (block.meetings == meeting) leave();
}

}  // namespace emulator

namespace fa3 {

void copy_chunk(uint32_t to, void const* from, int bytes) {
    using namespace emulator;
    check_shared(to);
    Fiber& fiber = block.fibers[current];
    Copy copy{to, fiber.groups, {}};
    if (bytes != 0) {
        if (reinterpret_cast<uintptr_t>(from) % kChunkBytes != 0) fail("a chunk of a tensor is not aligned");
        memcpy(copy.data, from, bytes);
    }
    memset(smem + to, 0xFF, kChunkBytes);
    if (fiber.copy_count == kMostCopies) fail("a thread waits for too few of its copies");
    fiber.copies[fiber.copy_count++] = copy;
}

void commit_copies() { ++emulator::block.fibers[emulator::current].groups; }

int groups_in_flight() { return emulator::block.fibers[emulator::current].groups; }

void wait_copies_of(int groups) {
    using namespace emulator;
    Fiber& fiber = block.fibers[current];
    int left = 0;
    for (int i = 0; i < fiber.copy_count; ++i) {
        Copy copy = fiber.copies[i];
        if (copy.group < groups) {
            memcpy(smem + copy.to, copy.data, kChunkBytes);
        } else {
            copy.group -= groups;
            fiber.copies[left++] = copy;
        }
    }
    fiber.copy_count = left;
    fiber.groups -= groups;
}

void read_matrices(uint32_t const (&rows)[emulator::kLanes], uint16_t (&matrices)[4][8][8]) {
    using namespace emulator;
    for (int matrix = 0; matrix < 4; ++matrix) {
        unsigned banks = 0;
        for (int row = 0; row < 8; ++row) {
            uint32_t const address = rows[matrix * 8 + row];
            check_shared(address);
            unsigned const bank = 1U << address / kChunkBytes % kBanksOfChunks;
            if (banks & bank) ++bank_conflicts;
            banks |= bank;
            memcpy(matrices[matrix][row], smem + address, kChunkBytes);
        }
    }
}

}  // namespace fa3

// Runs `grid` blocks of `threads`, the last one first if `backwards`. Returns an error message, or null; adds bank conflicts of ldmatrix to `conflicts`.
extern "C" char const* emulate(void const* parameters, size_t bytes, int grid, int threads,
                               size_t shared_bytes, int backwards, int* conflicts) {
    using namespace emulator;
    failure = nullptr;
    bank_conflicts = 0;
    if (bytes != sizeof params) return "the parameters have another size";
    if (shared_bytes > kMostShared) return "the block needs more shared memory than the emulator has";
    memcpy(static_cast<void*>(&params), parameters, bytes);
    gridDim.x = grid;
    block.shared_bytes = shared_bytes;
    if (threads > kMostThreads) return "the block has too many threads";
    block.threads = threads;
    for (int index = 0; index < grid && failure == nullptr; ++index) {
        start_block(backwards ? grid - 1 - index : index);
        run_block();
    }
    *conflicts += bank_conflicts;
    return failure;
}
