// The device side of cuda-green-queue: tasks that kernels submit to the CPU (or to a resident kernel of another
// partition), and tasks that a resident kernel takes.
//
// Includes nothing; for NVRTC and nvcc, C++17, sm_70 and later. A queue is a kernel argument:
//
//     struct Square {                                   // plain data, the same as the Rust type's, #[repr(C)]
//         static constexpr unsigned short method = 1;   // the number that its handler is registered under
//         using Output = unsigned int;                  // what the handler answers; void for nothing
//         unsigned int number;
//     };
//
//     extern "C" __global__ void ask(cuda_green::Queue queue, unsigned int* out) {
//         using cuda_green::MILLISECOND;
//         auto future = queue.call(Square{threadIdx.x}, MILLISECOND);  // waits so long for a free slot at most
//         unsigned int squared = 0;
//         if (future.wait(&squared, MILLISECOND) == cuda_green::Status::Done)  // and so long for the answer
//             out[threadIdx.x] = squared;
//     }
//
// What holds for every function:
// - Host memory gets loads and stores alone: a read-modify-write over PCIe is not atomic.
// - Every wait is bounded by the caller's nanoseconds, counted by %globaltimer, whose steps may be 1 us.
// - Nothing is waited for between taking a slot and publishing it, so no thread blocks another one for long.
// - No memory is allocated, and no lock is held while others wait for it.
// - A trip over the bus, to host memory and back, takes about a microsecond; the documentation counts these.
//
// The format of the memory is that of `layout.rs`; CI compares the two.
//
// For tests of the protocol on a CPU, CUDA_GREEN_QUEUE_MACHINE names a file with twins of what is PTX here.
#ifndef CUDA_GREEN_QUEUE_CUH
#define CUDA_GREEN_QUEUE_CUH

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 700
#error "cuda_green_queue.cuh is for sm_70 and later: compile with -arch=sm_70 or more (nvcc) or --gpu-architecture=compute_70 or more (NVRTC, whose default may be older)"
#endif
#if defined(_MSVC_LANG) ? _MSVC_LANG < 201703L : __cplusplus < 201703L
#error "cuda_green_queue.cuh is C++17: compile with -std=c++17 (nvcc) or --std=c++17 (NVRTC)"
#endif

namespace cuda_green {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

#ifdef CUDA_GREEN_QUEUE_MACHINE
#define CUDA_GREEN_DEVICE inline
#define CUDA_GREEN_SLOW inline
#define CUDA_GREEN_UNROLL(count)
#else
#define CUDA_GREEN_DEVICE __device__ __forceinline__
// What is called rarely is there once, so that kernels stay small.
#define CUDA_GREEN_SLOW static __device__ __noinline__
#define CUDA_GREEN_PRAGMA(text) _Pragma(#text)
#define CUDA_GREEN_UNROLL(count) CUDA_GREEN_PRAGMA(unroll count)
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Layout
// ---------------------------------------------------------------------------------------------------------------------

constexpr u64 QUEUE_MAGIC = 0x3145554555514743;  // "CGQUEUE1"
constexpr u64 INBOX_MAGIC = 0x31584f424e494743;  // "CGINBOX1"
constexpr u32 VERSION = 1;
constexpr u32 LINE = 128;
constexpr u32 SLOT_HEADER = 16;
constexpr u32 ANSWER_HEADER = 8;
constexpr u32 NO_FUTURE = 0xffffffff;
constexpr u64 CLOSED = 1ull << 63;
constexpr u32 MAX_PRIORITIES = 16;
constexpr u32 MAX_PAYLOAD = 32768 - SLOT_HEADER;
constexpr u32 MAX_OUTPUT = 32768 - ANSWER_HEADER;
constexpr u32 INBOX_HEADER_WORDS = 3;
constexpr u8 KERNEL_TO_KERNEL = 1;
// Values of a lane's control word.
constexpr u64 LEAVE = 1;
constexpr u64 FINISH = 2;
constexpr u64 CLOSE = 3;
// The word behind it while the lane's block runs. It is 0 before and after.
constexpr u64 RUNNING = 1;
// Nanoseconds, for timeouts.
constexpr u64 MICROSECOND = 1000;
constexpr u64 MILLISECOND = 1000 * MICROSECOND;
constexpr u64 SECOND = 1000 * MILLISECOND;
// A timeout that is none.
constexpr u64 FOREVER = ~0ull;

// What became of a submission or of a call.
enum class Status : u32 {
    // The task was accepted, and its answer has not arrived.
    Pending = 0,
    // The handler returned an output.
    Done = 1,
    // The handler returned an error, whose number `Future::code` returns.
    Failed = 2,
    // The handler panicked.
    Panicked = 3,
    // No handler is registered under the task's number.
    UnknownMethod = 4,
    // The handler is for payloads of another size.
    BadPayload = 5,
    // The queue was closed. The task was not run, and will not be.
    Closed = 6,
    // No slot, or no entry for an answer, is free. The task was not submitted.
    Full = 7,
    // The time is up. A submission was not made; a call may be answered later, and can be waited for again.
    Timeout = 8,
    // The argument is no queue of this version, the lane or the priority does not exist, or the task or its output is
    // larger than the queue has room for. The task was not submitted. As an answer: its length is not that of `Output`.
    Invalid = 9,
    // The task was accepted. Only submissions without an answer return it.
    Accepted = 10,
};

// The producers' side of a ring, in device memory.
struct RingState {
    i64 credits;
    u64 pad0[15];
    u64 head;
    u64 pad1[15];
    u64 seen_tail;
    u32 refilling;
    u32 reserved;
    u64 pad2[14];
    u64 refused;
    u64 pad3[15];
};

// The place of a resident kernel in a ring, in device memory.
struct InboxPosition {
    u64 position;
    u64 pad[15];
};

// ---------------------------------------------------------------------------------------------------------------------
// The machine: everything that is PTX on a GPU, and its twin for CPU threads
// ---------------------------------------------------------------------------------------------------------------------


namespace detail {

struct Pair {
    u64 first, second;
};

// Memory order on a GPU: the atomics on credits and heads are relaxed, of gpu scope. An acquire or release there would
// be a fence that waits for the payload's stores on the bus. The slot of a ticket is free because its owner was given a
// credit that came from the consumer's tail, read with acquire semantics; the payload's stores depend on that through
// the branch on the credits. The twin for CPU threads, where such an order costs nothing, acquires and releases.
//
// What pairs with what: each release, and the acquire that reads what it wrote.
// - A slot's word 0: `Ring::commit`, by store_release, with `TaskHeader::read` of the CPU's consumer, or of a kernel's
//   inbox with load_acquire in `BlockInbox::poll`.
// - A slot of an inbox that the CPU fills: `Ring::commit_words` of the CPU with load_acquire in `BlockInbox::poll`.
// - A tail: the CPU's `Consumer::tell`, or `detail::tell`, by store_release, with load_acquire in `refill`, or with
//   `Ring::refill` of the CPU. The consumer's loads of a slot come before the tail, so a slot is written again after them.
// - An answer's word 0: the CPU's `answers::answer`, or `BlockInbox::send`, by store_release, with load_pair_acquire in
//   `Future::poll` and load_acquire in `take_entry_near`, or with `answers::poll` of the CPU.
// - The lock of a refill: unlock with try_lock. It orders `seen_tail`.
// - An entry that is given back: add_release in `Future::poll` keeps its loads of the answer before. What takes the entry
//   next is relaxed: the next answer is written after the consumer has read the next task, which is released by `commit`.
// - A control: `Inbox::store_controls` of the CPU with load_acquire in `BlockInbox::poll`. Between the store of RUNNING and
//   the first load of the control there is a fence, as there is between the CPU's store of a command and its load of
//   RUNNING: at least one of the two sees the other's.
// - The end of RUNNING: store_release in `BlockInbox::leave` with the CPU's load in `Inbox::wait_for_blocks`.
#ifdef CUDA_GREEN_QUEUE_MACHINE
#include CUDA_GREEN_QUEUE_MACHINE
#else

constexpr u32 WARP = 32;

CUDA_GREEN_DEVICE u64 load_relaxed(const u64* at) {
    u64 value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
}

CUDA_GREEN_DEVICE u32 load_relaxed(const u32* at) {
    u32 value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
}

CUDA_GREEN_DEVICE void store_relaxed(u64* at, u64 value) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" : : "l"(at), "l"(value) : "memory");
}

CUDA_GREEN_DEVICE u64 add(u64* at, u64 value) {
    u64 old;
    asm volatile("atom.relaxed.gpu.global.add.u64 %0, [%1], %2;" : "=l"(old) : "l"(at), "l"(value) : "memory");
    return old;
}

CUDA_GREEN_DEVICE void add_only(u64* at, u64 value) {
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" : : "l"(at), "l"(value) : "memory");
}

CUDA_GREEN_DEVICE void add_only(u32* at, u32 value) {
    asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" : : "l"(at), "r"(value) : "memory");
}

// Of `Future::poll`; see above.
CUDA_GREEN_DEVICE void add_release(u32* at, u32 value) {
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" : : "l"(at), "r"(value) : "memory");
}

CUDA_GREEN_DEVICE u32 set_bits(u32* at, u32 bits) {
    u32 old;
    asm volatile("atom.relaxed.gpu.global.or.b32 %0, [%1], %2;" : "=r"(old) : "l"(at), "r"(bits) : "memory");
    return old;
}

CUDA_GREEN_DEVICE void set_bits_only(u32* at, u32 bits) {
    asm volatile("red.relaxed.gpu.global.or.b32 [%0], %1;" : : "l"(at), "r"(bits) : "memory");
}

CUDA_GREEN_DEVICE bool replace(u32* at, u32 expected, u32 value) {
    u32 old;
    asm volatile("atom.relaxed.gpu.global.cas.b32 %0, [%1], %2, %3;"
                 : "=r"(old) : "l"(at), "r"(expected), "r"(value) : "memory");
    return old == expected;
}

// Pairs with `unlock`.
CUDA_GREEN_DEVICE bool try_lock(u32* at) {
    u32 old;
    asm volatile("atom.acquire.gpu.global.exch.b32 %0, [%1], 1;" : "=r"(old) : "l"(at) : "memory");
    return old == 0;
}

// Pairs with `try_lock`.
CUDA_GREEN_DEVICE void unlock(u32* at) {
    asm volatile("st.release.gpu.global.u32 [%0], 0;" : : "l"(at) : "memory");
}

// Memory that the other side of the queue accesses too: the CPU (scope sys) or, if `near`, a kernel (scope gpu).

// Pairs with `store_release`, and with the CPU's stores of slots, tails, answers and controls.
CUDA_GREEN_DEVICE u64 load_acquire(const u64* at, bool near) {
    u64 value;
    if (near)
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    else
        asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
}

// Pairs with `load_acquire` and `load_pair_acquire`, and with the CPU's loads of slots, tails and answers.
CUDA_GREEN_DEVICE void store_release(u64* at, u64 value, bool near) {
    if (near)
        asm volatile("st.release.gpu.global.u64 [%0], %1;" : : "l"(at), "l"(value) : "memory");
    else
        asm volatile("st.release.sys.global.u64 [%0], %1;" : : "l"(at), "l"(value) : "memory");
}

// Stores, and lets all loads after it see what was stored elsewhere before a fence that came first.
CUDA_GREEN_DEVICE void store_and_fence(u64* at, u64 value) {
    asm volatile("st.relaxed.sys.global.u64 [%0], %1; fence.sc.sys;" : : "l"(at), "l"(value) : "memory");
}

CUDA_GREEN_DEVICE void store_word(u64* at, u64 value) {
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" : : "l"(at), "l"(value) : "memory");
}

CUDA_GREEN_DEVICE void store_pair(u64* at, Pair value) {
    asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};"
                 : : "l"(at), "l"(value.first), "l"(value.second) : "memory");
}

CUDA_GREEN_DEVICE u64 load_word(const u64* at) {
    u64 value;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
}

CUDA_GREEN_DEVICE Pair load_pair(const u64* at) {
    Pair value;
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(value.first), "=l"(value.second) : "l"(at) : "memory");
    return value;
}

// Loads 16 aligned bytes with acquire semantics: if the first word is of an answer, so is the second. Pairs with the
// store_release of an answer's word 0. One trip where
// the compiler writes PTX 8.3 or later, which drivers of CUDA 12.4 and later read; otherwise the second word is loaded
// after the first, and only a first word whose high half is `expected` is worth the second trip.
CUDA_GREEN_DEVICE Pair load_pair_acquire(const u64* at, bool near, u32 expected) {
    Pair value;
#if defined(__CUDACC_VER_MAJOR__) && \
    (__CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 4))
    (void)expected;
    if (near)
        asm volatile("{ .reg .b128 both; ld.acquire.gpu.global.b128 both, [%2]; mov.b128 {%0, %1}, both; }"
                     : "=l"(value.first), "=l"(value.second) : "l"(at) : "memory");
    else
        asm volatile("{ .reg .b128 both; ld.acquire.sys.global.b128 both, [%2]; mov.b128 {%0, %1}, both; }"
                     : "=l"(value.first), "=l"(value.second) : "l"(at) : "memory");
#else
    value.first = load_acquire(at, near);
    value.second = u32(value.first >> 32) == expected ? load_word(at + 1) : 0;
#endif
    return value;
}

CUDA_GREEN_DEVICE u64 nanoseconds() {
    u64 value;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(value) : : "memory");
    return value;
}

CUDA_GREEN_DEVICE void pause(u32 nanoseconds) { asm volatile("nanosleep.u32 %0;" : : "r"(nanoseconds) : "memory"); }

CUDA_GREEN_DEVICE u32 multiprocessor() {
    u32 value;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(value));
    return value;
}

CUDA_GREEN_DEVICE u32 lane_of_warp() {
    u32 value;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(value));
    return value;
}

// Returns the lanes of the warp that have not exited, once all of them are here. The lanes that happen to be together
// (`__activemask`) would not do: two teams of one warp can be in the same call then, and where the compiler brings their
// lanes together again, one that has a ticket waits for one that waits for that slot (seen on an H200).
CUDA_GREEN_DEVICE u32 lanes_of_warp() { return __ballot_sync(0xffffffff, true); }

CUDA_GREEN_DEVICE u32 thread_of_block() {
    return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
}

CUDA_GREEN_DEVICE u32 threads_of_block() { return blockDim.x * blockDim.y * blockDim.z; }

CUDA_GREEN_DEVICE u32 block_of_grid() { return (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x; }

CUDA_GREEN_DEVICE u32 warp_of_grid() {
    return block_of_grid() * ((threads_of_block() + WARP - 1) / WARP) + thread_of_block() / WARP;
}

CUDA_GREEN_DEVICE u32 shuffle(u32 mask, u32 value, u32 from) { return __shfl_sync(mask, value, int(from)); }
CUDA_GREEN_DEVICE u64 shuffle(u32 mask, u64 value, u32 from) { return __shfl_sync(mask, value, int(from)); }
CUDA_GREEN_DEVICE bool all(u32 mask, bool value) { return __all_sync(mask, value) != 0; }
CUDA_GREEN_DEVICE u32 ballot(u32 mask, bool value) { return __ballot_sync(mask, value); }
CUDA_GREEN_DEVICE void sync_warp(u32 mask) { __syncwarp(mask); }
CUDA_GREEN_DEVICE void sync_block() { __syncthreads(); }
CUDA_GREEN_DEVICE u32 count_bits(u32 bits) { return u32(__popc(bits)); }
CUDA_GREEN_DEVICE u32 first_bit(u32 bits) { return u32(__ffs(int(bits))) - 1; }

CUDA_GREEN_DEVICE void copy(void* to, const void* from, u64 bytes) { memcpy(to, from, bytes); }

#endif  // CUDA_GREEN_QUEUE_MACHINE

// ---------------------------------------------------------------------------------------------------------------------
// Bytes of tasks and outputs
// ---------------------------------------------------------------------------------------------------------------------

// The bytes of a value on the other side: none of `void` and of a struct without fields, as in Rust.
template <class T> struct Bytes {
    static constexpr u32 count = __is_empty(T) ? 0 : u32(sizeof(T));
    static_assert(__is_trivially_copyable(T), "tasks and outputs must be plain data");
    static_assert(alignof(T) <= 16, "tasks and outputs are aligned to 16 bytes at most");
};
template <> struct Bytes<void> {
    static constexpr u32 count = 0;
};

// A value as words, filled up with zeros to a multiple of 16 bytes, and at least 16.
template <u32 Count> struct alignas(16) Words {
    static constexpr u32 length = Count == 0 ? 2 : (Count + 15) / 16 * 2;
    u64 words[length];
};

template <class T> CUDA_GREEN_DEVICE Words<Bytes<T>::count> to_words(const T& value) {
    constexpr u32 count = Bytes<T>::count;
    Words<count> words;
    if constexpr (count % 16 != 0 || count == 0) {
        words.words[words.length - 2] = 0;
        words.words[words.length - 1] = 0;
    }
    if constexpr (count != 0) copy(&words, &value, count);
    return words;
}

// ---------------------------------------------------------------------------------------------------------------------
// Time
// ---------------------------------------------------------------------------------------------------------------------

CUDA_GREEN_DEVICE u64 after(u64 now, u64 duration) { return duration > FOREVER - now ? FOREVER : now + duration; }

// Returns the moment at which a wait of so many nanoseconds ends; 0, which nobody waits for, if there are none.
CUDA_GREEN_DEVICE u64 deadline_after(u64 timeout_ns) { return timeout_ns == 0 ? 0 : after(nanoseconds(), timeout_ns); }

CUDA_GREEN_DEVICE Status refused(u64 deadline) { return deadline == 0 ? Status::Full : Status::Timeout; }

// Sleeps, longer each time. Returns false at once if the time is up.
CUDA_GREEN_DEVICE bool sleep_before(u64 deadline, u32* sleep) {
    if (deadline == 0 || nanoseconds() >= deadline) return false;
    pause(*sleep);
    if (*sleep < 3200) *sleep *= 2;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// A ring, as its producers see it
// ---------------------------------------------------------------------------------------------------------------------

struct Ring {
    char* slots;
    const u64* tail;
    RingState* state;
    u32 depth_log2;
    u32 slot_log2;
    bool near;

    CUDA_GREEN_DEVICE u64* credits() const { return reinterpret_cast<u64*>(&state->credits); }
    CUDA_GREEN_DEVICE bool has_credits(u32 count) const { return i64(load_relaxed(credits())) >= i64(count); }
    CUDA_GREEN_DEVICE void give_credits(u64 count) const { add_only(credits(), count); }

    // Takes credits, or none. Only credits are given back, never a ticket, so that no slot stays unwritten.
    CUDA_GREEN_DEVICE bool take_credits(u32 count) const {
        if (i64(add(credits(), 0 - u64(count))) >= i64(count)) return true;
        give_credits(count);
        return false;
    }

    CUDA_GREEN_DEVICE u64 take_tickets(u32 count) const { return add(&state->head, count); }

    // Writes a task into its slot and publishes it. No trip: the stores are posted.
    template <class Task> CUDA_GREEN_DEVICE void commit(u64 ticket, u64 call, const Task& task) const {
        constexpr u32 length = Bytes<Task>::count;
        u64* slot = reinterpret_cast<u64*>(slots + ((ticket & ((1ull << depth_log2) - 1)) << slot_log2));
        if constexpr (length != 0) {
            const auto payload = to_words(task);
            CUDA_GREEN_UNROLL(16)
            for (u32 i = 0; i < payload.length; i += 2)
                store_pair(slot + 2 + i, Pair{payload.words[i], payload.words[i + 1]});
        }
        store_word(slot + 1, call);
        u64 sequence = u32(ticket >> depth_log2) + 1u;
        store_release(slot, sequence << 32 | u64(u16(Task::method)) << 16 | length, near);
    }

    CUDA_GREEN_DEVICE void count_refused(u32 count) const { add_only(&state->refused, u64(count)); }
};

enum class Refill : u32 { Busy, Taken, Added, Nothing, Closed };

// Grants credits for what was consumed since the last refill, `count` of them to the caller if there are as many: who
// reads the tail gets on, whatever others do. One thread at a time reads it, since reads of one address over the bus
// are served one after the other. One trip.
CUDA_GREEN_SLOW Refill refill(Ring ring, u32 count) {
    if (!try_lock(&ring.state->refilling)) return Refill::Busy;
    u64 tail = load_acquire(ring.tail, ring.near);
    u64 seen = load_relaxed(&ring.state->seen_tail);
    u64 granted = (tail & ~CLOSED) - seen;
    // A tail that went back, or too far, grants nothing.
    if (granted > (1ull << ring.depth_log2)) granted = 0;
    store_relaxed(&ring.state->seen_tail, seen + granted);
    bool taken = count != 0 && granted >= count;
    if (taken) granted -= count;
    if (granted != 0) ring.give_credits(granted);
    unlock(&ring.state->refilling);
    if (taken) return Refill::Taken;
    if (tail & CLOSED) return Refill::Closed;
    return granted != 0 ? Refill::Added : Refill::Nothing;
}

struct Reserved {
    u64 ticket;
    Status status;
};

// Reserves tickets for one whose first attempt to take credits failed. Looks a few times while another thread refills,
// which takes a microsecond or two; beyond that, waits until the deadline.
CUDA_GREEN_SLOW Reserved reserve_slowly(Ring ring, u32 count, u64 deadline) {
    u32 sleep = 100;
    for (u32 attempt = 0;; ++attempt) {
        if (ring.has_credits(count) && ring.take_credits(count)) break;
        Refill refilled = refill(ring, count);
        if (refilled == Refill::Taken) break;
        // The last credits of a closed ring are as good as any.
        if (refilled == Refill::Closed && !ring.has_credits(count)) return {0, Status::Closed};
        if (refilled != Refill::Nothing && attempt < 5) {
            if (refilled != Refill::Busy) continue;
            pause(sleep);
            sleep *= 2;
        } else if (!sleep_before(deadline, &sleep)) {
            ring.count_refused(count);
            return {0, refused(deadline)};
        }
    }
    return {ring.take_tickets(count), Status::Accepted};
}

// Reserves tickets. The first attempt is without a look at the credits, which would be a trip to the L2 cache more.
CUDA_GREEN_DEVICE Reserved reserve(const Ring& ring, u32 count, u64 timeout_ns) {
    if (ring.take_credits(count)) return {ring.take_tickets(count), Status::Accepted};
    return reserve_slowly(ring, count, deadline_after(timeout_ns));
}

// Refills, for all, if these tickets were the last of an eighth of the ring, so that credits rarely run out. To be
// called after they were committed.
CUDA_GREEN_DEVICE void replenish(const Ring& ring, u64 ticket, u32 count) {
    u32 stride_log2 = ring.depth_log2 > 3 ? ring.depth_log2 - 3 : 0;
    if ((ticket >> stride_log2) != ((ticket + count) >> stride_log2)) (void)refill(ring, 0);
}

// ---------------------------------------------------------------------------------------------------------------------
// The entries for answers, as callers see them
// ---------------------------------------------------------------------------------------------------------------------

constexpr u32 TAKEN = 1;
constexpr u32 ABANDONED = 2;
constexpr u32 PROBES = 32;

struct FutureTable {
    u32* words;
    char* answers;
    u32 count;
    u32 answer_log2;
    bool near;

    CUDA_GREEN_DEVICE u64* answer(u32 entry) const {
        return reinterpret_cast<u64*>(answers + (u64(entry) << answer_log2));
    }

    // Returns the entry that a thread tries first: another one for each thread, as long as there are enough of them.
    CUDA_GREEN_DEVICE u32 first() const { return (warp_of_grid() + lane_of_warp() * (count / WARP)) & (count - 1); }

    // From `generation << 2 | TAKEN` to `(generation + 1) << 2`.
    CUDA_GREEN_DEVICE void give_back(u32 entry) const { add_only(&words[entry], 3u); }
};

// An entry, or none; `generation` says then whether the queue is closed.
struct Entry {
    u32 number;
    u32 generation;

    CUDA_GREEN_DEVICE static Entry none(bool closed) { return {NO_FUTURE, closed}; }
    CUDA_GREEN_DEVICE bool found() const { return number != NO_FUTURE; }
    CUDA_GREEN_DEVICE bool closed() const { return !found() && generation != 0; }
    CUDA_GREEN_DEVICE u64 call() const { return u64(generation) << 32 | number; }
};

// Takes an entry of the window after `first`: one that was given back or else one that was abandoned and has been
// answered since, for which it reads answers, a trip each.
CUDA_GREEN_DEVICE Entry take_entry_near(const FutureTable& table, u32 first) {
    const u32 probes = table.count < PROBES ? table.count : PROBES;
    CUDA_GREEN_UNROLL(1)
    for (u32 i = 0; i < probes; ++i) {
        u32 number = (first + i) & (table.count - 1);
        if (load_relaxed(&table.words[number]) & TAKEN) continue;
        u32 word = set_bits(&table.words[number], TAKEN);
        if ((word & TAKEN) == 0) return {number, word >> 2};
    }
    CUDA_GREEN_UNROLL(1)
    for (u32 i = 0; i < probes; ++i) {
        u32 number = (first + i) & (table.count - 1);
        u32 word = load_relaxed(&table.words[number]);
        if ((word & (TAKEN | ABANDONED)) != (TAKEN | ABANDONED)) continue;
        u64 answer = load_acquire(table.answer(number), table.near);
        if (u32(answer >> 32) != word >> 2 || u8(answer) == 0) continue;
        u32 next = (word & ~ABANDONED) + 4;
        if (replace(&table.words[number], word, next)) return {number, next >> 2};
    }
    return Entry::none(false);
}

// Returns a place to look for entries, another one each time.
CUDA_GREEN_DEVICE u32 elsewhere(u32 first) { return first + (u32(nanoseconds() >> 5) * 0x9e3779b9u >> 4); }

// Takes an entry near the first one or in a second window, since entries nearby may be held for long.
CUDA_GREEN_SLOW Entry try_take_entry(FutureTable table, u32 first) {
    Entry entry = take_entry_near(table, first);
    return entry.found() ? entry : take_entry_near(table, elsewhere(first));
}

// Looks whether the ring is closed, one thread at a time. Entries may be held for ever by those who got their answers, so
// whoever waits for one looks at this too. One trip.
CUDA_GREEN_DEVICE bool is_closed(const Ring& ring) { return refill(ring, 0) == Refill::Closed; }

// Waits for an entry until the deadline or until the ring is closed, and comes through all windows meanwhile.
CUDA_GREEN_SLOW Entry take_entry(FutureTable table, Ring ring, u32 first, u64 deadline) {
    u32 window = elsewhere(first), sleep = 200;
    for (;;) {
        Entry entry = take_entry_near(table, window);
        if (entry.found()) return entry;
        bool closed = is_closed(ring);
        if (closed || !sleep_before(deadline, &sleep)) return Entry::none(closed);
        window += PROBES;
    }
}

// Takes an entry for each of the lanes or for none, until the deadline or until the ring is closed. `entry` is what a lane
// has already. While the lanes wait they hold nothing, so that two warps do not wait for each other's entries.
CUDA_GREEN_SLOW Entry take_entries(u32 lanes, FutureTable table, Ring ring, u32 first, Entry entry, u64 deadline) {
    // Warps that meet again and again sleep for different times.
    u32 sleep = 200 + warp_of_grid() % 8 * 40;
    for (;;) {
        if (all(lanes, entry.found())) return entry;
        if (entry.found()) table.give_back(entry.number);
        bool closed = lane_of_warp() == first_bit(lanes) && is_closed(ring);
        closed = ballot(lanes, closed) != 0;
        if (closed || !all(lanes, sleep_before(deadline, &sleep))) return Entry::none(closed);
        entry = try_take_entry(table, first);
    }
}

}  // namespace detail

// ---------------------------------------------------------------------------------------------------------------------
// Futures
// ---------------------------------------------------------------------------------------------------------------------

// The answer to a call. Move-only; dropping it before the answer came costs nothing, and the answer is thrown away.
template <class Output> class Future {
public:
    // A future of a call that was refused.
    CUDA_GREEN_DEVICE explicit Future(Status refused)
        : answer_(nullptr), word_(nullptr), generation_(0), code_(0), near_(false), status_(refused) {}
    CUDA_GREEN_DEVICE Future(const detail::FutureTable& table, detail::Entry entry)
        : answer_(table.answer(entry.number)), word_(&table.words[entry.number]), generation_(entry.generation),
          code_(0), near_(table.near), status_(Status::Pending) {}
    Future(const Future&) = delete;
    Future& operator=(const Future&) = delete;
    CUDA_GREEN_DEVICE Future(Future&& other) { take(other); }
    CUDA_GREEN_DEVICE Future& operator=(Future&& other) {
        if (this != &other) {
            abandon();
            take(other);
        }
        return *this;
    }
    CUDA_GREEN_DEVICE ~Future() { abandon(); }

    // Returns what is known without looking: Pending, why the call was refused, or how it ended. No trip.
    CUDA_GREEN_DEVICE Status status() const { return status_; }

    // Returns the number of the handler's error, once the status is Failed.
    CUDA_GREEN_DEVICE u32 code() const { return code_; }

    // Looks whether the answer has arrived, and returns Pending if not. The output is written to `out`, if that is one,
    // when Done is returned for the first time, and never else. One trip, and one more for an output longer than 8
    // bytes. Acquires: what the handler wrote before it returned can be read.
    CUDA_GREEN_DEVICE Status poll(Output* out = nullptr) {
        if (status_ != Status::Pending) return status_;
        detail::Pair answer = detail::load_pair_acquire(answer_, near_, generation_);
        u32 status = u8(answer.first);
        if (u32(answer.first >> 32) != generation_ || status == 0) return Status::Pending;
        constexpr u32 count = detail::Bytes<Output>::count;
        status_ = status <= u32(Status::Closed) ? Status(status) : Status::Invalid;
        if (status_ == Status::Failed) code_ = u32(answer.second);
        if (status_ == Status::Done && (u32(answer.first) >> 8) != count) status_ = Status::Invalid;
        if constexpr (count != 0) {
            if (status_ == Status::Done && out != nullptr) read(out, answer.second);
        }
        // The entry may be another call's from here on, so all loads of this answer must be over.
        if constexpr (count > 8)
            detail::add_release(word_, 3u);
        else
            detail::add_only(word_, 3u);
        return status_;
    }

    // Polls until the answer has arrived, or for `timeout_ns` nanoseconds: then returns Timeout, and the future can be
    // waited for again. Sleeps between polls once some were in vain, for 2 us at most.
    CUDA_GREEN_DEVICE Status wait(Output* out, u64 timeout_ns) {
        u64 deadline = 0;
        for (u32 looks = 0;; ++looks) {
            Status status = poll(out);
            if (status != Status::Pending) return status;
            u64 now = detail::nanoseconds();
            if (looks == 0) deadline = detail::after(now, timeout_ns);
            if (now >= deadline) return Status::Timeout;
            if (looks >= 8) detail::pause(looks < 16 ? 250 : looks < 64 ? 500 : 2000);
        }
    }
    CUDA_GREEN_DEVICE Status wait(u64 timeout_ns) { return wait(nullptr, timeout_ns); }

private:
    CUDA_GREEN_DEVICE void abandon() {
        if (status_ == Status::Pending) detail::set_bits_only(word_, detail::ABANDONED);
    }

    CUDA_GREEN_DEVICE void take(Future& other) {
        answer_ = other.answer_;
        word_ = other.word_;
        generation_ = other.generation_;
        code_ = other.code_;
        near_ = other.near_;
        status_ = other.status_;
        other.status_ = Status::Invalid;
    }

    CUDA_GREEN_DEVICE void read(Output* out, u64 first) {
        constexpr u32 count = detail::Bytes<Output>::count;
        if constexpr (count <= 8) {
            detail::copy(out, &first, count);
        } else {
            // The words after the first in pairs: those of the entry from byte 16 on.
            constexpr u32 pairs = (count - 8 + 15) / 16;
            u64 words[2 * pairs + 1];
            words[0] = first;
            CUDA_GREEN_UNROLL(16)
            for (u32 i = 0; i < pairs; ++i) {
                detail::Pair pair = detail::load_pair(answer_ + 2 + 2 * i);
                words[1 + 2 * i] = pair.first;
                words[2 + 2 * i] = pair.second;
            }
            detail::copy(out, words, count);
        }
    }

    u64* answer_;
    u32* word_;
    u32 generation_;
    u32 code_;
    bool near_;
    Status status_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Queues
// ---------------------------------------------------------------------------------------------------------------------

// The ring that a task goes to. Priority 0 is the most urgent one.
struct Where {
    static constexpr u32 BY_MULTIPROCESSOR = 0xffffffff;
    u32 lane = BY_MULTIPROCESSOR;
    u32 priority = 0;
};

// A task that is told by a method's number, an input and an output: `NumberedTask` in Rust. The input has a field at least.
template <u16 Method, class Input, class Result> struct NumberedTask {
    static constexpr u16 method = Method;
    using Output = Result;
    Input input;
};

// A queue, as an argument of kernels: `DeviceQueue` in Rust. Use its functions; the fields are for them alone.
//
// Memory order of all that submit: release. The handler sees what the calling thread wrote before.
//
// A task type has `static constexpr unsigned short method` and, for calls, `using Output = ...`.
struct Queue {
    u64 magic;
    u64 slots, tails, answers, rings, futures;
    u32 version;
    u32 future_count;
    u16 lanes, priorities;
    u8 depth_log2, slot_log2, answer_log2, flags;

    // Submits a task that wants no answer, if a slot is free. Returns Accepted, Full, Closed or Invalid.
    //
    // No trip while there are credits. Where they have run out, it reads the consumer's tail (one trip), or gives the
    // thread that does a few microseconds.
    template <class Task> CUDA_GREEN_DEVICE Status try_submit(const Task& task, Where where = {}) const {
        return submit(task, 0, where);
    }

    // Submits a task that wants no answer, and waits for a free slot, for `timeout_ns` nanoseconds at most. Returns
    // Accepted, Closed, Invalid or Timeout (Full, if the timeout is 0). It sleeps while it waits, for 3.2 us at a time
    // at most.
    template <class Task> CUDA_GREEN_DEVICE Status submit(const Task& task, u64 timeout_ns, Where where = {}) const {
        detail::Ring ring;
        if (!find<Task, void>(where, &ring)) return Status::Invalid;
        detail::Reserved got = detail::reserve(ring, 1, timeout_ns);
        if (got.status != Status::Accepted) return got.status;
        ring.commit(got.ticket, NO_FUTURE, task);
        detail::replenish(ring, got.ticket, 1);
        return Status::Accepted;
    }

    // Submits a task of each lane of the warp, with one reservation for all of them: all tasks are submitted or none, and
    // all lanes get the same status. All lanes that have not exited must call it, as with `__syncwarp()`: it waits for them,
    // and for ever for one that never comes. The lowest lane's `timeout_ns` and `where` count. Otherwise as `try_submit` and
    // `submit`. Invalid as well if the ring has fewer slots than there are lanes. The tasks get neighbouring slots, in the
    // order of lanes.
    template <class Task> CUDA_GREEN_DEVICE Status try_submit_warp(const Task& task, Where where = {}) const {
        return submit_warp(task, 0, where);
    }
    template <class Task>
    CUDA_GREEN_DEVICE Status submit_warp(const Task& task, u64 timeout_ns, Where where = {}) const {
        const Team team(detail::lanes_of_warp());
        detail::Ring ring;
        if (!find<Task, void>(team.common(where), &ring) || team.count > (1u << depth_log2)) return Status::Invalid;
        detail::Reserved got{};
        if (team.rank == 0) got = detail::reserve(ring, team.count, timeout_ns);
        got = team.common(got);
        if (got.status != Status::Accepted) return got.status;
        ring.commit(got.ticket + team.rank, NO_FUTURE, task);
        if (team.rank == 0) detail::replenish(ring, got.ticket, team.count);
        return Status::Accepted;
    }

    // Submits a task and returns the future of its answer. If it was refused, the future's status says why: Full,
    // Closed, Invalid. Full as well if all of some 100 entries for answers that it tried are taken; the next attempt tries
    // others. Costs as `try_submit` does.
    template <class Task>
    CUDA_GREEN_DEVICE Future<typename Task::Output> try_call(const Task& task, Where where = {}) const {
        return call(task, 0, where);
    }

    // Submits a task and returns the future of its answer, after it waited for a free slot and a free entry for
    // the answer, for `timeout_ns` nanoseconds at most. If it was refused, the future's status says why: Closed,
    // Invalid, Timeout (Full, if the timeout is 0).
    template <class Task>
    CUDA_GREEN_DEVICE Future<typename Task::Output> call(const Task& task, u64 timeout_ns, Where where = {}) const {
        using Output = typename Task::Output;
        detail::Ring ring;
        if (!find<Task, Output>(where, &ring)) return Future<Output>(Status::Invalid);
        const detail::FutureTable table = future_table();
        const u32 first = table.first();
        // Both atomics are under way at the same time.
        const u32 word = detail::set_bits(&table.words[first], detail::TAKEN);
        const bool credit = ring.take_credits(1);
        detail::Entry entry{first, word >> 2};
        detail::Reserved got{0, Status::Accepted};
        if (word & detail::TAKEN) entry = detail::try_take_entry(table, first);
        if (credit && entry.found()) {
            got.ticket = ring.take_tickets(1);
        } else {
            if (credit) ring.give_credits(1);
            const u64 deadline = detail::deadline_after(timeout_ns);
            if (!entry.found()) entry = detail::take_entry(table, ring, first, deadline);
            if (!entry.found()) {
                if (entry.closed()) return Future<Output>(Status::Closed);
                ring.count_refused(1);
                return Future<Output>(detail::refused(deadline));
            }
            got = detail::reserve_slowly(ring, 1, deadline);
            if (got.status != Status::Accepted) {
                table.give_back(entry.number);
                return Future<Output>(got.status);
            }
        }
        ring.commit(got.ticket, entry.call(), task);
        detail::replenish(ring, got.ticket, 1);
        return Future<Output>(table, entry);
    }

    // Submits a task of each lane of the warp, with one reservation for all of them, and returns each lane the future of
    // its own. Either all tasks are submitted or none. All lanes that have not exited must call it, as with
    // `submit_warp`. The lowest lane's `timeout_ns` and `where` count. While there are not enough slots or entries for all
    // it holds none, so that smaller teams get on, and may get on first. Invalid as well if the queue has fewer slots or
    // entries for answers than there are lanes.
    template <class Task>
    CUDA_GREEN_DEVICE Future<typename Task::Output> try_call_warp(const Task& task, Where where = {}) const {
        return call_warp(task, 0, where);
    }
    template <class Task>
    CUDA_GREEN_DEVICE Future<typename Task::Output> call_warp(const Task& task, u64 timeout_ns, Where where = {}) const {
        using Output = typename Task::Output;
        const Team team(detail::lanes_of_warp());
        detail::Ring ring;
        const detail::FutureTable table = future_table();
        if (!find<Task, Output>(team.common(where), &ring) || team.count > (1u << depth_log2) ||
            team.count > table.count)
            return Future<Output>(Status::Invalid);
        const u32 first = table.first();
        const u32 word = detail::set_bits(&table.words[first], detail::TAKEN);
        bool credit = team.rank == 0 && ring.take_credits(team.count);
        detail::Entry entry{first, word >> 2};
        if (word & detail::TAKEN) entry = detail::try_take_entry(table, first);
        u64 deadline = 0;
        bool all = detail::all(team.mask, entry.found());
        if (!all) {
            if (credit) ring.give_credits(team.count);
            credit = false;
            deadline = team.common(detail::deadline_after(timeout_ns));
            entry = detail::take_entries(team.mask, table, ring, first, entry, deadline);
            all = entry.found();
        }
        detail::Reserved got{0, Status::Accepted};
        if (team.rank == 0) {
            if (entry.closed()) {
                got.status = Status::Closed;
            } else if (!all) {
                ring.count_refused(team.count);
                got.status = detail::refused(deadline);
            } else if (credit) {
                got.ticket = ring.take_tickets(team.count);
            } else {
                if (deadline == 0) deadline = detail::deadline_after(timeout_ns);
                got = detail::reserve_slowly(ring, team.count, deadline);
            }
        }
        got = team.common(got);
        if (got.status != Status::Accepted) {
            if (all) table.give_back(entry.number);
            return Future<Output>(got.status);
        }
        ring.commit(got.ticket + team.rank, entry.call(), task);
        if (team.rank == 0) detail::replenish(ring, got.ticket, team.count);
        return Future<Output>(table, entry);
    }

private:
    // The lanes of a warp that submit together.
    struct Team {
        u32 mask, count, leader, rank;

        CUDA_GREEN_DEVICE explicit Team(u32 lanes)
            : mask(lanes), count(detail::count_bits(lanes)), leader(detail::first_bit(lanes)),
              rank(detail::count_bits(lanes & ((1u << detail::lane_of_warp()) - 1))) {}

        // Returns the leader's value.
        CUDA_GREEN_DEVICE u64 common(u64 value) const { return detail::shuffle(mask, value, leader); }
        CUDA_GREEN_DEVICE Where common(Where where) const {
            return {detail::shuffle(mask, where.lane, leader), detail::shuffle(mask, where.priority, leader)};
        }
        CUDA_GREEN_DEVICE detail::Reserved common(detail::Reserved got) const {
            return {common(got.ticket), Status(detail::shuffle(mask, u32(got.status), leader))};
        }
    };

    // Finds the ring, if the queue is one of this version and has room for the task and its output.
    template <class Task, class Output> CUDA_GREEN_DEVICE bool find(Where where, detail::Ring* ring) const {
        static_assert(detail::Bytes<Task>::count <= MAX_PAYLOAD, "no queue has room for such a task");
        static_assert(detail::Bytes<Output>::count <= MAX_OUTPUT, "no queue has room for such an output");
        if (magic != QUEUE_MAGIC || version != VERSION) return false;
        if (detail::Bytes<Task>::count + SLOT_HEADER > (1u << slot_log2)) return false;
        if (detail::Bytes<Output>::count + ANSWER_HEADER > (1u << answer_log2)) return false;
        u32 lane = where.lane;
        if (lane == Where::BY_MULTIPROCESSOR) lane = detail::multiprocessor() % lanes;
        if (lane >= lanes || where.priority >= priorities) return false;
        u32 number = lane * priorities + where.priority;
        ring->slots = reinterpret_cast<char*>(slots) + (u64(number) << (depth_log2 + slot_log2));
        ring->tail = reinterpret_cast<const u64*>(tails + u64(number) * LINE);
        ring->state = reinterpret_cast<RingState*>(rings) + number;
        ring->depth_log2 = depth_log2;
        ring->slot_log2 = slot_log2;
        ring->near = (flags & KERNEL_TO_KERNEL) != 0;
        return true;
    }

    CUDA_GREEN_DEVICE detail::FutureTable future_table() const {
        return {reinterpret_cast<u32*>(futures), reinterpret_cast<char*>(answers), future_count, answer_log2,
                (flags & KERNEL_TO_KERNEL) != 0};
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Inboxes: tasks to a resident kernel
// ---------------------------------------------------------------------------------------------------------------------

// The tasks to a resident kernel, as an argument of that kernel: `DeviceInbox` in Rust. The fields are for
// `BlockInbox` alone.
struct Inbox {
    u64 magic;
    u64 slots, tails, answers, controls, positions;
    u32 version;
    u32 future_count;
    u16 lanes, priorities;
    u8 depth_log2, slot_log2, answer_log2, flags;
};

// The shared memory of a block that takes tasks of up to `Capacity` bytes.
template <u32 Capacity> struct InboxMemory {
    static_assert(Capacity <= MAX_PAYLOAD, "no inbox has room for such a task");
    static constexpr u32 pairs = Capacity == 0 ? 1 : (Capacity + 15) / 16;

    alignas(16) u32 payload[4 * pairs];
    // Method and length, future, generation, and whether there is a task.
    u32 header[4];
    // For each ring the next ticket, and the tail that its producers were told.
    u64 positions[MAX_PRIORITIES];
    u64 told[MAX_PRIORITIES];
};

namespace detail {

// Tells the producers of a lane's rings which slots are free again, unless the rings are closed, and the next launch where
// to go on. To be called by a warp.
CUDA_GREEN_SLOW void tell(const u64* positions, u64* told, u64 tails, InboxPosition* kept, u32 priorities, bool closed,
                          bool near) {
    for (u32 ring = lane_of_warp(); ring < priorities; ring += WARP) {
        u64 now = positions[ring];
        if (told[ring] == now) continue;
        told[ring] = now;
        if (!closed) store_release(reinterpret_cast<u64*>(tails + u64(ring) * LINE), now, near);
        store_relaxed(&kept[ring].position, now);
    }
}

// Closes a lane's rings: at most as many tasks as they have slots are accepted from now on. To be called by a warp.
CUDA_GREEN_SLOW void close(const u64* told, u64 tails, u32 priorities, bool near) {
    for (u32 ring = lane_of_warp(); ring < priorities; ring += WARP)
        store_release(reinterpret_cast<u64*>(tails + u64(ring) * LINE), told[ring] | CLOSED, near);
}

}  // namespace detail

// Takes tasks with all threads of a block, whose number is that of the inbox's lane. The block needs at least 32 threads.
//
//     __shared__ cuda_green::InboxMemory<64> memory;
//     cuda_green::BlockInbox<64> tasks(inbox, memory);
//     while (tasks.next()) {
//         Square square;
//         if (tasks.method() == Square::method && tasks.read(&square)) tasks.reply(square.number * square.number);
//     }
//
// What is left of the inbox's tasks when the kernel returns waits for the next launch, which goes on at the same place,
// whether the kernel returned because `next` told it to or on its own. Let all threads of a block return together, since the
// end of this value is theirs together too; a kernel that ends without it (`asm("exit;")`) does its last tasks twice.
template <u32 Capacity> class BlockInbox {
public:
    CUDA_GREEN_DEVICE BlockInbox(const Inbox& inbox, InboxMemory<Capacity>& memory)
        : inbox_(inbox), memory_(memory), first_ring_(detail::block_of_grid() * inbox.priorities), round_(0),
          taken_(0), header_(0), future_(NO_FUTURE), generation_(0), verdict_(Status::Done), finishing_(false),
          closed_(false),
          ended_(inbox.magic != INBOX_MAGIC || inbox.version != VERSION || detail::block_of_grid() >= inbox.lanes ||
                 inbox.priorities == 0 || inbox.priorities > MAX_PRIORITIES ||
                 detail::threads_of_block() < detail::WARP) {
        if (!ended_ && polls()) {
            for (u32 ring = detail::lane_of_warp(); ring < inbox.priorities; ring += detail::WARP) {
                u64 start = detail::load_relaxed(&kept()[ring].position);
                memory.positions[ring] = start;
                memory.told[ring] = start;
            }
            if (detail::lane_of_warp() == 0) detail::store_and_fence(control() + 1, RUNNING);
        }
        detail::sync_block();
    }
    // Answers the task that was taken last, as `next` does, and leaves the inbox to the next launch.
    CUDA_GREEN_DEVICE ~BlockInbox() {
        answer(verdict_);
        if (!ended_ && polls()) leave();
    }

    BlockInbox(const BlockInbox&) = delete;
    BlockInbox& operator=(const BlockInbox&) = delete;

    // Waits for the next task. Returns false when the kernel has to return: the CPU said so, or the inbox is none of
    // this version. All threads must call it together, and all get the same.
    //
    // A task that was not replied to is answered first: as Done, without output, if `read` gave it out; otherwise as
    // UnknownMethod, or BadPayload if `read` refused it.
    //
    // One trip a poll, in which a warp reads the next slots of all priorities at once; one more for a payload that is
    // longer than its share of words. The most urgent task comes first; every eighth turn is that of a priority, of each
    // in turn.
    CUDA_GREEN_DEVICE bool next() {
        answer(verdict_);
        if (ended_) return false;
        detail::sync_block();
        if (polls()) {
            bool there = poll();
            if (!there) leave();
            if (detail::lane_of_warp() == 0) memory_.header[3] = there;
        }
        detail::sync_block();
        ended_ = memory_.header[3] == 0;
        if (ended_) return false;
        header_ = memory_.header[0];
        future_ = memory_.header[1];
        generation_ = memory_.header[2];
        verdict_ = Status::UnknownMethod;
        return true;
    }

    // Returns the number of the task's method.
    CUDA_GREEN_DEVICE u32 method() const { return header_ >> 16; }

    // Copies the task out of shared memory. Returns false if it is of another length. To be called by all threads.
    template <class Task> CUDA_GREEN_DEVICE bool read(Task* task) {
        static_assert(detail::Bytes<Task>::count <= Capacity, "give the inbox's memory more room for such a task");
        if ((header_ & 0xffff) != detail::Bytes<Task>::count) {
            verdict_ = Status::BadPayload;
            return false;
        }
        if constexpr (detail::Bytes<Task>::count != 0) detail::copy(task, memory_.payload, detail::Bytes<Task>::count);
        verdict_ = Status::Done;
        return true;
    }

    // Answers the task. To be called by all threads; the first one's output is sent. Releases: the caller sees what
    // all these threads wrote before. No trip: the stores are posted.
    template <class Output> CUDA_GREEN_DEVICE void reply(const Output& output) {
        constexpr u32 count = detail::Bytes<Output>::count;
        static_assert(count <= MAX_OUTPUT, "no inbox has room for such an output");
        if (count + ANSWER_HEADER > (1u << inbox_.answer_log2)) return answer(Status::BadPayload);
        send(Status::Done, output);
    }

    // Answers the task with an error's number. To be called by all threads; the first one's number is sent.
    CUDA_GREEN_DEVICE void fail(u32 code) { send(Status::Failed, code); }

private:
    static constexpr u32 ALL = 0xffffffff;
    struct Nothing {};

    CUDA_GREEN_DEVICE static bool polls() { return detail::thread_of_block() < detail::WARP; }
    CUDA_GREEN_DEVICE bool near() const { return (inbox_.flags & KERNEL_TO_KERNEL) != 0; }
    CUDA_GREEN_DEVICE InboxPosition* kept() const {
        return reinterpret_cast<InboxPosition*>(inbox_.positions) + first_ring_;
    }
    CUDA_GREEN_DEVICE u64* control() const {
        return reinterpret_cast<u64*>(inbox_.controls) + detail::block_of_grid() * (LINE / 8);
    }
    CUDA_GREEN_DEVICE const u64* slot(u32 ring, u64 ticket) const {
        u64 place = (u64(first_ring_ + ring) << inbox_.depth_log2) + (ticket & ((1ull << inbox_.depth_log2) - 1));
        return reinterpret_cast<const u64*>(inbox_.slots + (place << inbox_.slot_log2));
    }
    CUDA_GREEN_DEVICE u32 sequence(u64 ticket) const { return u32(ticket >> inbox_.depth_log2) + 1; }

    CUDA_GREEN_DEVICE void answer(Status status) { send(status, Nothing{}); }

    // Writes the answer, if the task has none yet and wants one: the output's first 8 bytes into word 1, what is left
    // of it behind, and word 0 last.
    template <class Output> CUDA_GREEN_DEVICE void send(Status status, const Output& output) {
        if (future_ == NO_FUTURE) return;
        detail::sync_block();
        if (detail::thread_of_block() == 0 && future_ < inbox_.future_count) {
            constexpr u32 count = detail::Bytes<Output>::count;
            u64* entry = reinterpret_cast<u64*>(inbox_.answers + (u64(future_) << inbox_.answer_log2));
            if constexpr (count != 0) {
                const auto words = detail::to_words(output);
                CUDA_GREEN_UNROLL(4)
                for (u32 i = 0; i < (count + 7) / 8; ++i) detail::store_word(entry + 1 + i, words.words[i]);
            }
            detail::store_release(entry, u64(generation_) << 32 | count << 8 | u32(status), near());
        }
        future_ = NO_FUTURE;
    }

    CUDA_GREEN_DEVICE u64 tails() const { return inbox_.tails + u64(first_ring_) * LINE; }

    CUDA_GREEN_DEVICE void tell() {
        detail::tell(memory_.positions, memory_.told, tails(), kept(), inbox_.priorities, closed_, near());
    }

    // Leaves all as the next launch needs it.
    CUDA_GREEN_DEVICE void leave() {
        tell();
        detail::sync_warp(ALL);
        if (detail::lane_of_warp() == 0) detail::store_release(control() + 1, 0, false);
    }

    // Stores the data of a slot's word where `next` and `read` find it.
    CUDA_GREEN_DEVICE void keep(u32 word, u32 data) {
        if (word < INBOX_HEADER_WORDS)
            memory_.header[word] = data;
        else
            memory_.payload[word - INBOX_HEADER_WORDS] = data;
    }

    // Polls until a task lies in the shared memory. Returns false if the control says that the kernel has to return.
    CUDA_GREEN_DEVICE bool poll() {
        using namespace detail;
        // Each ring gets as many of the warp's lanes, a power of two of at least 2; each lane reads a word of its
        // ring's next slot. The last lane reads the control now and then instead.
        u32 share_log2 = 1;
        while ((u32(inbox_.priorities) << (share_log2 + 1)) <= WARP) ++share_log2;
        const u32 share = 1u << share_log2, me = lane_of_warp(), ring = me >> share_log2, word = me & (share - 1);
        const u32 slot_words = 1u << (inbox_.slot_log2 - 3);
        const bool has_word = ring < inbox_.priorities && word < (near() ? 1 : slot_words);
        for (u32 idle = 0;; ++idle) {
            const bool look = round_++ % 16 == 0;
            const bool controls = look && me == WARP - 1;
            const bool mine = has_word && !controls;
            const u64 my_ticket = mine ? memory_.positions[ring] : 0;
            u64 value = 0;
            if (controls || mine) value = load_acquire(controls ? control() : slot(ring, my_ticket) + word, false);
            // The rings are empty only if they were looked at after the command was read.
            const bool finishing = finishing_;
            if (look) {
                const u64 command = shuffle(ALL, value, WARP - 1);
                if (command == LEAVE) return false;
                if (command == FINISH || command == CLOSE) finishing_ = true;
                if (command == CLOSE && !closed_) {
                    detail::close(memory_.told, tails(), inbox_.priorities, near());
                    closed_ = true;
                }
            }
            u32 ready = ballot(ALL, mine && word == 0 && u32(value >> 32) == sequence(my_ticket));
            if (ready == 0) {
                if (finishing) return false;
                if (idle == 8) tell();
                if (idle > 256) pause(idle > 4096 ? 1000 : 100);
                continue;
            }
            const u32 turn = taken_ / 8 % inbox_.priorities;
            const u32 others = ready & ~((1u << (turn << share_log2)) - 1);
            if (taken_ % 8 == 7 && others != 0) ready = others;
            const u32 chosen = first_bit(ready) >> share_log2;
            const u64 ticket = memory_.positions[chosen];
            const u64 first = shuffle(ALL, value, chosen << share_log2);
            const u64* source = slot(chosen, ticket);
            const u32 length = u32(first) & 0xffff;
            // Orders the other lanes' loads after that of word 0.
            sync_warp(ALL);
            bool complete = true;
            if (near()) {
                if (me == 0) {
                    const u64 call = load_word(source + 1);
                    keep(0, u32(first));
                    keep(1, u32(call));
                    keep(2, u32(call >> 32));
                }
                // A task that has no room here is none that `read` gives out.
                const bool fits = length <= Capacity && length + SLOT_HEADER <= slot_words * 8;
                CUDA_GREEN_UNROLL(1)
                for (u32 i = me; fits && i < (length + 7) / 8; i += WARP) {
                    const u64 data = load_word(source + 2 + i);
                    memory_.payload[2 * i] = u32(data);
                    memory_.payload[2 * i + 1] = u32(data >> 32);
                }
            } else {
                u32 words = INBOX_HEADER_WORDS + (length + 3) / 4;
                if (length > Capacity || words > slot_words) words = INBOX_HEADER_WORDS;
                const u32 loaded = share - u32(look && (chosen + 1) << share_log2 == WARP);
                if (ring == chosen && word < words && word < loaded) {
                    complete = u32(value >> 32) == sequence(ticket);
                    keep(word, u32(value));
                }
                CUDA_GREEN_UNROLL(1)
                for (u32 i = loaded + me; i < words; i += WARP) {
                    const u64 more = load_acquire(source + i, false);
                    complete = complete && u32(more >> 32) == sequence(ticket);
                    keep(i, u32(more));
                }
            }
            // The CPU is still writing.
            if (!all(ALL, complete)) continue;
            ++taken_;
            // Before any lane writes it below.
            const u64 told = memory_.told[chosen];
            if (me == 0) memory_.positions[chosen] = ticket + 1;
            sync_warp(ALL);
            // Producers learn of free slots in time, and the line is not written for each task.
            const u32 tell_after = inbox_.depth_log2 > 9 ? 64 : (1u << inbox_.depth_log2) / 8;
            if (ticket + 1 - told >= tell_after) tell();
            return true;
        }
    }

    const Inbox inbox_;
    InboxMemory<Capacity>& memory_;
    u32 first_ring_;
    u32 round_;
    u32 taken_;
    u32 header_;
    u32 future_;
    u32 generation_;
    Status verdict_;
    bool finishing_;
    bool closed_;
    bool ended_;
};

}  // namespace cuda_green

#endif  // CUDA_GREEN_QUEUE_CUH
