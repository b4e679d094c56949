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
//         auto future = queue.call(Square{threadIdx.x}, 1000000);          // waits 1 ms for a free slot at most
//         unsigned int squared = 0;
//         if (future.wait(&squared, 1000000) == cuda_green::Status::Done)  // waits 1 ms for the answer at most
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
// With CUDA_GREEN_QUEUE_HOST defined the same source compiles as C++ for a CPU, whose threads stand for those of a GPU,
// each a warp of its own. It is for tests of the protocol.
#ifndef CUDA_GREEN_QUEUE_CUH
#define CUDA_GREEN_QUEUE_CUH

namespace cuda_green {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

#ifdef CUDA_GREEN_QUEUE_HOST
#define CUDA_GREEN_DEVICE inline
#define CUDA_GREEN_UNROLL(count)
#else
#define CUDA_GREEN_DEVICE __device__ __forceinline__
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
constexpr u32 NO_FUTURE = 0xffffffff;
constexpr u64 CLOSED = 1ull << 63;
constexpr u32 MAX_PRIORITIES = 16;
constexpr u32 MAX_PAYLOAD = 32768 - SLOT_HEADER;
constexpr u32 MAX_OUTPUT = 32768 - 8;
constexpr u32 INBOX_HEADER_WORDS = 3;
constexpr u8 KERNEL_TO_KERNEL = 1;
// Values of a lane's control word.
constexpr u64 LEAVE = 1;
constexpr u64 FINISH = 2;
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

// The first bytes of a segment in pinned host memory. Kernels need nothing of it.
struct SegmentHeader {
    u64 magic;
    u32 version, lanes, priorities, depth, slot_bytes, answer_bytes, futures, reserved;
    u64 tails, slots, answers, end;
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

#ifdef CUDA_GREEN_QUEUE_HOST
// The test harness defines these.
namespace host {
u64 nanoseconds();
void pause(u32 nanoseconds);
// Numbers that differ between threads, and that of the multiprocessor which the thread is said to run on.
u32 thread_number();
u32 multiprocessor();
}  // namespace host
#endif

namespace detail {

struct Pair {
    u64 first, second;
};

// Memory order on a GPU: the atomics on credits and heads are relaxed, of gpu scope. An acquire or release there would
// be a fence that waits for the payload's stores on the bus. The slot of a ticket is free because its owner was given a
// credit that came from the consumer's tail, read with acquire semantics; the payload's stores depend on that through
// the branch on the credits. The twin for CPU threads, where such an order costs nothing, acquires and releases.
#ifndef CUDA_GREEN_QUEUE_HOST

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

CUDA_GREEN_DEVICE bool try_lock(u32* at) {
    u32 old;
    asm volatile("atom.acquire.gpu.global.exch.b32 %0, [%1], 1;" : "=r"(old) : "l"(at) : "memory");
    return old == 0;
}

CUDA_GREEN_DEVICE void unlock(u32* at) {
    asm volatile("st.release.gpu.global.u32 [%0], 0;" : : "l"(at) : "memory");
}

// Memory that the other side of the queue accesses too: the CPU (scope sys) or, if `near`, a kernel (scope gpu).

CUDA_GREEN_DEVICE u64 load_acquire(const u64* at, bool near) {
    u64 value;
    if (near)
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    else
        asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
}

CUDA_GREEN_DEVICE void store_release(u64* at, u64 value, bool near) {
    if (near)
        asm volatile("st.release.gpu.global.u64 [%0], %1;" : : "l"(at), "l"(value) : "memory");
    else
        asm volatile("st.release.sys.global.u64 [%0], %1;" : : "l"(at), "l"(value) : "memory");
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

// Loads 16 aligned bytes with acquire semantics: if the first word is of an answer, so is the second. One trip where
// the compiler writes PTX 8.3 or later, which drivers of CUDA 12.4 and later read; otherwise the second word is loaded
// after the first, and only a first word whose high half is `expected` is worth the second trip.
CUDA_GREEN_DEVICE Pair load_pair_acquire(const u64* at, bool near, u32 expected) {
    Pair value;
#if !defined(CUDA_GREEN_QUEUE_NO_B128) && defined(__CUDACC_VER_MAJOR__) && \
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

#else  // CUDA_GREEN_QUEUE_HOST

constexpr u32 WARP = 1;

inline u64 load_relaxed(const u64* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
inline u32 load_relaxed(const u32* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
inline void store_relaxed(u64* at, u64 value) { __atomic_store_n(at, value, __ATOMIC_RELAXED); }
#ifdef CUDA_GREEN_QUEUE_MUTANT_RELAXED_CREDITS
constexpr int BOTH = __ATOMIC_RELAXED;
#else
constexpr int BOTH = __ATOMIC_ACQ_REL;
#endif
inline u64 add(u64* at, u64 value) { return __atomic_fetch_add(at, value, BOTH); }
inline void add_only(u64* at, u64 value) { (void)__atomic_fetch_add(at, value, BOTH); }
inline void add_only(u32* at, u32 value) { (void)__atomic_fetch_add(at, value, BOTH); }
inline void add_release(u32* at, u32 value) { (void)__atomic_fetch_add(at, value, BOTH); }
inline u32 set_bits(u32* at, u32 bits) { return __atomic_fetch_or(at, bits, BOTH); }
inline void set_bits_only(u32* at, u32 bits) { (void)__atomic_fetch_or(at, bits, BOTH); }
inline bool replace(u32* at, u32 expected, u32 value) {
    return __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
inline bool try_lock(u32* at) { return __atomic_exchange_n(at, 1u, __ATOMIC_ACQUIRE) == 0; }
inline void unlock(u32* at) { __atomic_store_n(at, 0u, __ATOMIC_RELEASE); }

inline u64 load_acquire(const u64* at, bool) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
#ifdef CUDA_GREEN_QUEUE_MUTANT_RELAXED_COMMIT
inline void store_release(u64* at, u64 value, bool) { __atomic_store_n(at, value, __ATOMIC_RELAXED); }
#else
inline void store_release(u64* at, u64 value, bool) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
#endif
#ifdef CUDA_GREEN_QUEUE_HOST_ATOMIC_PAYLOAD
// For a consumer that ThreadSanitizer does not see.
inline void store_word(u64* at, u64 value) { __atomic_store_n(at, value, __ATOMIC_RELAXED); }
inline u64 load_word(const u64* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
#else
inline void store_word(u64* at, u64 value) { *at = value; }
inline u64 load_word(const u64* at) { return *at; }
#endif
inline void store_pair(u64* at, Pair value) {
    store_word(at, value.first);
    store_word(at + 1, value.second);
}
inline Pair load_pair(const u64* at) { return {load_word(at), load_word(at + 1)}; }
inline Pair load_pair_acquire(const u64* at, bool near, u32 expected) {
    u64 first = load_acquire(at, near);
    return {first, u32(first >> 32) == expected ? load_word(at + 1) : 0};
}

inline u64 nanoseconds() { return host::nanoseconds(); }
inline void pause(u32 nanoseconds) { host::pause(nanoseconds); }
inline u32 multiprocessor() { return host::multiprocessor(); }
inline u32 lane_of_warp() { return 0; }
inline u32 thread_of_block() { return 0; }
inline u32 threads_of_block() { return 1; }
inline u32 block_of_grid() { return host::thread_number(); }
inline u32 warp_of_grid() { return host::thread_number(); }
template <class T> inline T shuffle(u32, T value, u32) { return value; }
inline bool all(u32, bool value) { return value; }
inline u32 ballot(u32, bool value) { return value; }
inline void sync_warp(u32) {}
inline void sync_block() {}
inline u32 count_bits(u32 bits) { return u32(__builtin_popcount(bits)); }
inline u32 first_bit(u32 bits) { return u32(__builtin_ffs(int(bits))) - 1; }
inline void copy(void* to, const void* from, u64 bytes) { __builtin_memcpy(to, from, bytes); }

#endif  // CUDA_GREEN_QUEUE_HOST

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

template <class T, class U> struct IsSame {
    static constexpr bool value = false;
};
template <class T> struct IsSame<T, T> {
    static constexpr bool value = true;
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

CUDA_GREEN_DEVICE u64 after(u64 now, u64 duration) { return duration > FOREVER - now ? FOREVER : now + duration; }

// Waits that grow: at first as short as a slot may take to become free, then long enough not to disturb.
struct Backoff {
    u64 timeout;
    u64 deadline;
    u32 wait;

    CUDA_GREEN_DEVICE explicit Backoff(u64 timeout_ns) : timeout(timeout_ns), deadline(0), wait(200) {}

    // Returns false if the time, which begins with the first call, is up; otherwise waits a while.
    CUDA_GREEN_DEVICE bool again() {
        if (timeout == 0) return false;
        u64 now = nanoseconds();
        if (deadline == 0)
            deadline = after(now, timeout);
        else if (now >= deadline)
            return false;
        pause(wait);
        if (wait < 3200) wait *= 2;
        return true;
    }
};

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

    // Takes credits, or none.
    CUDA_GREEN_DEVICE bool take_credits(u32 count) const {
        if (i64(add(credits(), 0 - u64(count))) >= i64(count)) return true;
        // Only credits are given back, never a ticket, so that no slot stays unwritten.
        add_only(credits(), count);
        return false;
    }

    CUDA_GREEN_DEVICE u64 take_tickets(u32 count) const { return add(&state->head, count); }

    enum class Refill : u32 { Busy, Taken, Added, Nothing, Closed };

    // Grants credits for what was consumed since the last refill, `count` of them to the caller if there are as many.
    // One thread at a time reads the tail, since reads of one address are served one after the other. One trip.
    CUDA_GREEN_DEVICE Refill refill(u32 count) const {
        if (!try_lock(&state->refilling)) return Refill::Busy;
        u64 now = load_acquire(tail, near);
        u64 seen = load_relaxed(&state->seen_tail);
        u64 granted = (now & ~CLOSED) - seen;
        // A tail that went back, or too far, grants nothing.
        if (granted > (1ull << depth_log2)) granted = 0;
        store_relaxed(&state->seen_tail, seen + granted);
        bool taken = count != 0 && granted >= count;
        if (taken) granted -= count;
        if (granted != 0) add_only(credits(), granted);
        unlock(&state->refilling);
        if (taken) return Refill::Taken;
        if (now & CLOSED) return Refill::Closed;
        return granted != 0 ? Refill::Added : Refill::Nothing;
    }

    // Reserves tickets for one whose first attempt to take credits failed. Accepted, Full or Closed. While another
    // thread refills, looks at the credits a few times, for some microseconds in all.
    CUDA_GREEN_DEVICE Status reserve_again(u32 count, u64* ticket) const {
        for (u32 wait = 100; wait <= 1600; wait *= 2) {
            if (has_credits(count) && take_credits(count)) {
                *ticket = take_tickets(count);
                return Status::Accepted;
            }
            Refill refilled = refill(count);
            if (refilled == Refill::Taken) {
                *ticket = take_tickets(count);
                return Status::Accepted;
            }
            if (refilled == Refill::Nothing) return Status::Full;
            if (refilled == Refill::Closed) {
                // The last credits are as good as any.
                if (has_credits(count) && take_credits(count)) {
                    *ticket = take_tickets(count);
                    return Status::Accepted;
                }
                return Status::Closed;
            }
            if (refilled == Refill::Busy) pause(wait);
        }
        return Status::Full;
    }

    // Writes a task into its slot and publishes it. No trip: the stores are posted.
    template <class Payload>
    CUDA_GREEN_DEVICE void commit(u64 ticket, u32 method, u32 length, u64 future, const Payload& payload) const {
        u64* slot = reinterpret_cast<u64*>(slots + ((ticket & ((1ull << depth_log2) - 1)) << slot_log2));
        if (length != 0) {
            constexpr u32 pairs = Payload::length / 2;
            CUDA_GREEN_UNROLL((pairs <= 16 ? pairs : 4))
            for (u32 i = 0; i < pairs; ++i)
                store_pair(slot + 2 + 2 * i, Pair{payload.words[2 * i], payload.words[2 * i + 1]});
        }
        store_word(slot + 1, future);
        u64 sequence = u32(ticket >> depth_log2) + 1u;
        store_release(slot, sequence << 32 | u64(method) << 16 | length, near);
    }

    // Refills, for all, if these tickets were the last of an eighth of the ring, so that credits rarely run out.
    CUDA_GREEN_DEVICE void replenish(u64 ticket, u32 count) const {
        u32 stride_log2 = depth_log2 > 3 ? depth_log2 - 3 : 0;
        if ((ticket >> stride_log2) != ((ticket + count) >> stride_log2)) (void)refill(0);
    }

    CUDA_GREEN_DEVICE void count_refused(u32 count) const { add_only(&state->refused, count); }
};

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

    // The entry that a thread tries first: another one for each thread, as long as there are enough of them.
    CUDA_GREEN_DEVICE u32 first() const { return (warp_of_grid() + lane_of_warp() * (count / WARP)) & (count - 1); }

    // Takes one of the entries after the first: one that was given back or else one that was abandoned and has been
    // answered since, for which it reads answers, a trip each.
    CUDA_GREEN_DEVICE bool take(u32 near_entry, u32* entry, u32* generation) const {
        u32 probes = count < PROBES ? count : PROBES;
        for (u32 i = 0; i < probes; ++i) {
            u32 number = (near_entry + i) & (count - 1);
            if (load_relaxed(&words[number]) & TAKEN) continue;
            u32 old = set_bits(&words[number], TAKEN);
            if (old & TAKEN) continue;
            *entry = number;
            *generation = old >> 2;
            return true;
        }
        for (u32 i = 0; i < probes; ++i) {
            u32 number = (near_entry + i) & (count - 1);
            u32 word = load_relaxed(&words[number]);
            if ((word & (TAKEN | ABANDONED)) != (TAKEN | ABANDONED)) continue;
            u64 answered = load_acquire(answer(number), near);
            if (u32(answered >> 32) != word >> 2 || u8(answered) == 0) continue;
            u32 next = (word & ~ABANDONED) + 4;
            if (!replace(&words[number], word, next)) continue;
            *entry = number;
            *generation = next >> 2;
            return true;
        }
        return false;
    }

    // From `generation << 2 | TAKEN` to `(generation + 1) << 2`.
    CUDA_GREEN_DEVICE void give_back(u32 entry) const { add_only(&words[entry], 3u); }
};

}  // namespace detail

// ---------------------------------------------------------------------------------------------------------------------
// Futures
// ---------------------------------------------------------------------------------------------------------------------

// The answer to a call. Move-only; dropping it before the answer came costs nothing, and the answer is thrown away.
template <class Output> class Future {
public:
    // A future of a call that was refused.
    CUDA_GREEN_DEVICE explicit Future(Status refused) : answer_(nullptr), word_(nullptr), generation_(0), code_(0),
                                                        near_(false), status_(refused) {}
    CUDA_GREEN_DEVICE Future(u64* answer, u32* word, u32 generation, bool near)
        : answer_(answer), word_(word), generation_(generation), code_(0), near_(near), status_(Status::Pending) {}
    Future(const Future&) = delete;
    Future& operator=(const Future&) = delete;
    CUDA_GREEN_DEVICE Future(Future&& other)
        : answer_(other.answer_), word_(other.word_), generation_(other.generation_), code_(other.code_),
          near_(other.near_), status_(other.status_) {
        other.status_ = Status::Invalid;
    }
    CUDA_GREEN_DEVICE Future& operator=(Future&& other) {
        if (this != &other) {
            abandon();
            answer_ = other.answer_;
            word_ = other.word_;
            generation_ = other.generation_;
            code_ = other.code_;
            near_ = other.near_;
            status_ = other.status_;
            other.status_ = Status::Invalid;
        }
        return *this;
    }
    CUDA_GREEN_DEVICE ~Future() { abandon(); }

    // Returns what is known without looking: Pending, why the call was refused, or how it ended. No trip.
    CUDA_GREEN_DEVICE Status status() const { return status_; }

    // Returns the number of the handler's error, once the status is Failed.
    CUDA_GREEN_DEVICE u32 code() const { return code_; }

    // Looks whether the answer has arrived, and returns Pending if not. The output is written to `out` when Done is
    // returned for the first time, and never else. One trip, and one more for an output longer than 8 bytes. Acquires:
    // what the handler wrote before it returned can be read.
    template <class T> CUDA_GREEN_DEVICE Status poll(T* out) {
        static_assert(detail::IsSame<T, Output>::value, "the output is of another type");
        return look(out);
    }
    // The same for a task whose output is void, or of no interest.
    CUDA_GREEN_DEVICE Status poll() { return look(static_cast<void*>(nullptr)); }

    // Polls until the answer has arrived, or for `timeout_ns` nanoseconds: then returns Timeout, and the future can be
    // waited for again. Sleeps between polls once some were in vain, for 2 us at most.
    template <class T> CUDA_GREEN_DEVICE Status wait(T* out, u64 timeout_ns) {
        static_assert(detail::IsSame<T, Output>::value, "the output is of another type");
        return wait_for(out, timeout_ns);
    }
    // The same for a task whose output is void, or of no interest.
    CUDA_GREEN_DEVICE Status wait(u64 timeout_ns) { return wait_for(static_cast<void*>(nullptr), timeout_ns); }

private:
    CUDA_GREEN_DEVICE void abandon() {
        if (status_ == Status::Pending) detail::set_bits_only(word_, detail::ABANDONED);
    }

    template <class T> CUDA_GREEN_DEVICE Status wait_for(T* out, u64 timeout_ns) {
        Status status = look(out);
        if (status != Status::Pending) return status;
        u64 deadline = detail::after(detail::nanoseconds(), timeout_ns);
        for (u32 looks = 0;; ++looks) {
            status = look(out);
            if (status != Status::Pending) return status;
            if (detail::nanoseconds() >= deadline) return Status::Timeout;
            if (looks >= 8) detail::pause(looks < 16 ? 250 : looks < 64 ? 500 : 2000);
        }
    }

    template <class T> CUDA_GREEN_DEVICE Status look(T* out) {
        if (status_ != Status::Pending) return status_;
        detail::Pair answer = detail::load_pair_acquire(answer_, near_, generation_);
        u32 status = u8(answer.first);
        if (u32(answer.first >> 32) != generation_ || status == 0) return Status::Pending;
        u32 length = u32(answer.first) >> 8;
        bool more = false;
        status_ = status <= u32(Status::Closed) ? Status(status) : Status::Invalid;
        if (status_ == Status::Failed) code_ = u32(answer.second);
        if (status_ == Status::Done) {
            constexpr u32 count = detail::Bytes<Output>::count;
            constexpr bool wanted = !detail::IsSame<T, void>::value;
            if (length != count) {
                status_ = Status::Invalid;
            } else if constexpr (wanted && count != 0) {
                more = read_output<count>(out, answer.second);
            }
        }
        // The entry may be used for another call from here on, so loads of this answer must be over.
        if (more)
            detail::add_release(word_, 3u);
        else
            detail::add_only(word_, 3u);
        return status_;
    }

    // Returns whether it loaded more than it was given.
    template <u32 Count, class T> CUDA_GREEN_DEVICE bool read_output(T* out, u64 first) {
        if constexpr (Count <= 8) {
            detail::copy(out, &first, Count);
            return false;
        } else {
            // The words after the first, in pairs: those of the entry from byte 16 on.
            constexpr u32 pairs = (Count - 8 + 15) / 16;
            alignas(16) u64 words[2 * pairs + 1];
            words[0] = first;
            CUDA_GREEN_UNROLL((pairs <= 16 ? pairs : 4))
            for (u32 i = 0; i < pairs; ++i) {
                detail::Pair pair = detail::load_pair(answer_ + 2 + 2 * i);
                words[1 + 2 * i] = pair.first;
                words[2 + 2 * i] = pair.second;
            }
            detail::copy(out, words, Count);
            return true;
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
        u64 ticket = 0;
        Status status = reserve(ring, 1, timeout_ns, &ticket);
        if (status != Status::Accepted) return status;
        ring.commit(ticket, Task::method, detail::Bytes<Task>::count, NO_FUTURE, detail::to_words(task));
        ring.replenish(ticket, 1);
        return status;
    }

    // Submits a task of each lane that `mask` names, with one reservation for all. Those lanes must call it together,
    // and all get the same status; the lowest one's `timeout_ns` and `where` count. Otherwise as `try_submit` and
    // `submit`. Invalid as well if the ring has fewer slots than the mask has lanes. The tasks get neighbouring slots,
    // in the order of lanes.
    template <class Task>
    CUDA_GREEN_DEVICE Status try_submit_warp(const Task& task, u32 mask = 0xffffffff, Where where = {}) const {
        return submit_warp(task, 0, mask, where);
    }
    template <class Task>
    CUDA_GREEN_DEVICE Status submit_warp(const Task& task, u64 timeout_ns, u32 mask = 0xffffffff,
                                         Where where = {}) const {
        u32 count = detail::count_bits(mask), leader = detail::first_bit(mask);
        where.lane = detail::shuffle(mask, where.lane, leader);
        where.priority = detail::shuffle(mask, where.priority, leader);
        detail::Ring ring;
        if (!find<Task, void>(where, &ring) || count > (1u << depth_log2)) return Status::Invalid;
        u32 rank = detail::count_bits(mask & ((1u << detail::lane_of_warp()) - 1));
        u64 ticket = 0;
        Status status = Status::Full;
        if (rank == 0) status = reserve(ring, count, timeout_ns, &ticket);
        status = Status(detail::shuffle(mask, u32(status), leader));
        if (status != Status::Accepted) return status;
        ticket = detail::shuffle(mask, ticket, leader);
        ring.commit(ticket + rank, Task::method, detail::Bytes<Task>::count, NO_FUTURE, detail::to_words(task));
        detail::sync_warp(mask);
        if (rank == 0) ring.replenish(ticket, count);
        return status;
    }

    // Submits a task and returns the future of its answer. If it was refused, the future's status says why: Full,
    // Closed, Invalid. Costs as `try_submit` does.
    template <class Task> CUDA_GREEN_DEVICE Future<typename Task::Output> try_call(const Task& task,
                                                                                  Where where = {}) const {
        return call(task, 0, where);
    }

    // Submits a task and returns the future of its answer, after it waited for a free slot and a free entry for
    // the answer, for `timeout_ns` nanoseconds at most. If it was refused, the future's status says why: Closed,
    // Invalid, Timeout.
    template <class Task> CUDA_GREEN_DEVICE Future<typename Task::Output> call(const Task& task, u64 timeout_ns,
                                                                              Where where = {}) const {
        using Output = typename Task::Output;
        detail::Ring ring;
        if (!find<Task, Output>(where, &ring)) return Future<Output>(Status::Invalid);
        detail::FutureTable table = future_table();
        u32 entry = table.first();
        // Both atomics are under way at the same time.
        u32 word = detail::set_bits(&table.words[entry], detail::TAKEN);
        bool credit = ring.take_credits(1);
        u32 generation = word >> 2;
        bool found = (word & detail::TAKEN) == 0 || table.take(entry, &entry, &generation);
        u64 ticket = 0;
        Status status = Status::Full;
        if (credit && found) {
            ticket = ring.take_tickets(1);
            status = Status::Accepted;
        } else {
            if (credit) detail::add_only(ring.credits(), 1u);
            detail::Backoff backoff(timeout_ns);
            for (;;) {
                if (found) status = ring.reserve_again(1, &ticket);
                if (status != Status::Full) break;
                if (!backoff.again()) {
                    ring.count_refused(1);
                    status = timeout_ns == 0 ? Status::Full : Status::Timeout;
                    break;
                }
                if (!found) found = table.take(table.first(), &entry, &generation);
            }
            if (status != Status::Accepted) {
                if (found) table.give_back(entry);
                return Future<Output>(status);
            }
        }
        ring.commit(ticket, Task::method, detail::Bytes<Task>::count, u64(generation) << 32 | entry,
                    detail::to_words(task));
        ring.replenish(ticket, 1);
        return Future<Output>(table.answer(entry), &table.words[entry], generation, table.near);
    }

    // Submits a task of each lane that `mask` names, with one reservation for all, and returns each lane the future of
    // its own. Those lanes must call it together; either all tasks are submitted or none. The lowest lane's
    // `timeout_ns` and `where` count.
    template <class Task>
    CUDA_GREEN_DEVICE Future<typename Task::Output> try_call_warp(const Task& task, u32 mask = 0xffffffff,
                                                                 Where where = {}) const {
        return call_warp(task, 0, mask, where);
    }
    template <class Task>
    CUDA_GREEN_DEVICE Future<typename Task::Output> call_warp(const Task& task, u64 timeout_ns,
                                                             u32 mask = 0xffffffff, Where where = {}) const {
        using Output = typename Task::Output;
        u32 count = detail::count_bits(mask), leader = detail::first_bit(mask);
        where.lane = detail::shuffle(mask, where.lane, leader);
        where.priority = detail::shuffle(mask, where.priority, leader);
        detail::Ring ring;
        if (!find<Task, Output>(where, &ring) || count > (1u << depth_log2)) return Future<Output>(Status::Invalid);
        u32 rank = detail::count_bits(mask & ((1u << detail::lane_of_warp()) - 1));
        detail::FutureTable table = future_table();
        u32 entry = 0, generation = 0;
        bool found = false;
        u64 ticket = 0;
        Status status = Status::Full;
        detail::Backoff backoff(timeout_ns);
        for (;;) {
            if (!found) found = table.take(table.first(), &entry, &generation);
            bool all = detail::all(mask, found);
            bool again = false;
            if (rank == 0) {
                if (all) status = ring.reserve_again(count, &ticket);
                if (status == Status::Full) {
                    again = backoff.again();
                    if (!again) {
                        ring.count_refused(count);
                        if (timeout_ns != 0) status = Status::Timeout;
                    }
                }
            }
            if (detail::shuffle(mask, u32(again), leader) == 0) break;
        }
        status = Status(detail::shuffle(mask, u32(status), leader));
        if (status != Status::Accepted) {
            if (found) table.give_back(entry);
            return Future<Output>(status);
        }
        ticket = detail::shuffle(mask, ticket, leader);
        ring.commit(ticket + rank, Task::method, detail::Bytes<Task>::count, u64(generation) << 32 | entry,
                    detail::to_words(task));
        detail::sync_warp(mask);
        if (rank == 0) ring.replenish(ticket, count);
        return Future<Output>(table.answer(entry), &table.words[entry], generation, table.near);
    }

private:
    // Finds the ring, if the queue is one of this version and has room for the task and its output.
    template <class Task, class Output> CUDA_GREEN_DEVICE bool find(Where where, detail::Ring* ring) const {
        static_assert(detail::Bytes<Task>::count <= MAX_PAYLOAD, "no queue has room for such a task");
        static_assert(detail::Bytes<Output>::count <= MAX_OUTPUT, "no queue has room for such an output");
        if (magic != QUEUE_MAGIC || version != VERSION) return false;
        if (detail::Bytes<Task>::count + SLOT_HEADER > (1u << slot_log2)) return false;
        if (detail::Bytes<Output>::count + 8 > (1u << answer_log2)) return false;
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
        return detail::FutureTable{reinterpret_cast<u32*>(futures), reinterpret_cast<char*>(answers), future_count,
                                   answer_log2, (flags & KERNEL_TO_KERNEL) != 0};
    }

    CUDA_GREEN_DEVICE static Status reserve(const detail::Ring& ring, u32 count, u64 timeout_ns, u64* ticket) {
        // Without a look at the credits before, which would be a trip to the L2 cache more.
        if (ring.take_credits(count)) {
            *ticket = ring.take_tickets(count);
            return Status::Accepted;
        }
        detail::Backoff backoff(timeout_ns);
        for (;;) {
            Status status = ring.reserve_again(count, ticket);
            if (status != Status::Full) return status;
            if (!backoff.again()) {
                ring.count_refused(count);
                return timeout_ns == 0 ? Status::Full : Status::Timeout;
            }
        }
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Inboxes: tasks to a resident kernel
// ---------------------------------------------------------------------------------------------------------------------

// The tasks to a resident kernel, as an argument of that kernel: `DeviceInbox` in Rust. The fields are for the
// receivers below alone.
struct Inbox {
    u64 magic;
    u64 slots, tails, answers, controls, positions;
    u32 version;
    u32 future_count;
    u16 lanes, priorities;
    u8 depth_log2, slot_log2, answer_log2, flags;
};

// The shared memory of a receiver, for tasks of up to `Capacity` bytes.
template <u32 Capacity> struct InboxMemory {
    static_assert(Capacity <= MAX_PAYLOAD, "no inbox has room for such a task");
    static constexpr u32 chunks = Capacity == 0 ? 1 : (Capacity + 15) / 16;

    // Method and length, future, generation, and whether there is a task; then the payload.
    alignas(16) u32 header[4];
    alignas(16) u64 payload[2 * chunks];
    // For each ring the next ticket, and the tail that its producers were told.
    u64 positions[MAX_PRIORITIES];
    u64 told[MAX_PRIORITIES];
};

namespace detail {

enum class Scope { Block, Warp };

// What both receivers are: the threads of a block or of a warp, of which one warp polls.
template <u32 Capacity, Scope Threads> class Receiver {
public:
    CUDA_GREEN_DEVICE Receiver(const Inbox& inbox, InboxMemory<Capacity>& memory, u32 lane)
        : inbox_(inbox), memory_(memory), lane_(lane), round_(0), taken_(0), header_(0), future_(NO_FUTURE),
          generation_(0), verdict_(Status::Done), finishing_(false), ended_(false) {
        u32 threads = Threads == Scope::Warp ? WARP : threads_of_block();
        ended_ = inbox.magic != INBOX_MAGIC || inbox.version != VERSION || lane >= inbox.lanes ||
                 inbox.priorities > MAX_PRIORITIES || threads < WARP;
        if (!ended_ && polls()) {
            for (u32 ring = lane_of_warp(); ring < inbox.priorities; ring += WARP) {
                u64 start = load_relaxed(position(ring));
                memory.positions[ring] = start;
                memory.told[ring] = start;
            }
        }
        sync();
    }

    Receiver(const Receiver&) = delete;
    Receiver& operator=(const Receiver&) = delete;

    // Waits for the next task. Returns false when the kernel has to return: the CPU said so, or the inbox is none of
    // this version. All threads must call it together, and all get the same.
    //
    // A task that was not replied to is answered first: as Done, without output, if `read` gave it out; otherwise as
    // UnknownMethod, or BadPayload if `read` refused it.
    //
    // One trip a poll, in which the warp reads the next slots of all priorities at once; one more for a payload that
    // is longer than the warp's share of words. The least urgent of the waiting tasks gets a turn every 8 tasks.
    CUDA_GREEN_DEVICE bool next() {
        settle();
        if (ended_) return false;
        sync();
        if (polls()) poll();
        sync();
        header_ = memory_.header[0];
        future_ = memory_.header[1];
        generation_ = memory_.header[2];
        ended_ = memory_.header[3] == 0;
        verdict_ = Status::UnknownMethod;
        return !ended_;
    }

    // Returns the number of the task's method.
    CUDA_GREEN_DEVICE u32 method() const { return header_ >> 16; }

    // Copies the task out of shared memory. Returns false if it is of another length. To be called by all threads.
    template <class Task> CUDA_GREEN_DEVICE bool read(Task* task) {
        static_assert(Bytes<Task>::count <= Capacity, "give the inbox's memory more room for such a task");
        if ((header_ & 0xffff) != Bytes<Task>::count) {
            verdict_ = Status::BadPayload;
            return false;
        }
        if constexpr (Bytes<Task>::count != 0) copy(task, memory_.payload, Bytes<Task>::count);
        verdict_ = Status::Done;
        return true;
    }

    // Answers the task. To be called by all threads; the first one's output is sent. Releases: the caller sees what
    // all these threads wrote before. No trip: the stores are posted.
    template <class Output> CUDA_GREEN_DEVICE void reply(const Output& output) {
        constexpr u32 count = Bytes<Output>::count;
        static_assert(count <= MAX_OUTPUT, "no inbox has room for such an output");
        sync();
        if (first()) send(Status::Done, count, to_words(output));
        future_ = NO_FUTURE;
        verdict_ = Status::Done;
    }

    // Answers the task with an error's number. To be called by all threads; the first one's number is sent.
    CUDA_GREEN_DEVICE void fail(u32 code) {
        sync();
        if (first()) send(Status::Failed, sizeof(u32), to_words(code));
        future_ = NO_FUTURE;
        verdict_ = Status::Done;
    }

private:
    static constexpr u32 ALL = 0xffffffff;

    CUDA_GREEN_DEVICE static void sync() {
        if constexpr (Threads == Scope::Block)
            sync_block();
        else
            sync_warp(ALL);
    }
    CUDA_GREEN_DEVICE static bool polls() { return Threads == Scope::Warp || thread_of_block() < WARP; }
    CUDA_GREEN_DEVICE static bool first() {
        return Threads == Scope::Warp ? lane_of_warp() == 0 : thread_of_block() == 0;
    }

    CUDA_GREEN_DEVICE bool near() const { return (inbox_.flags & KERNEL_TO_KERNEL) != 0; }
    CUDA_GREEN_DEVICE u32 number(u32 ring) const { return lane_ * inbox_.priorities + ring; }
    CUDA_GREEN_DEVICE u64* position(u32 ring) const {
        return &(reinterpret_cast<InboxPosition*>(inbox_.positions) + number(ring))->position;
    }
    CUDA_GREEN_DEVICE const u64* slot(u32 ring, u64 ticket) const {
        u64 offset = (ticket & ((1ull << inbox_.depth_log2) - 1)) << inbox_.slot_log2;
        return reinterpret_cast<const u64*>(inbox_.slots + (u64(number(ring)) << (inbox_.depth_log2 + inbox_.slot_log2))
                                            + offset);
    }
    CUDA_GREEN_DEVICE u32 sequence(u64 ticket) const { return u32(ticket >> inbox_.depth_log2) + 1; }

    CUDA_GREEN_DEVICE void settle() {
        if (future_ == NO_FUTURE) return;
        sync();
        if (first()) send(verdict_, 0, Words<0>{});
        future_ = NO_FUTURE;
    }

    template <class Output> CUDA_GREEN_DEVICE void send(Status status, u32 length, const Output& output) const {
        if (future_ >= inbox_.future_count) return;
        u64* answer = reinterpret_cast<u64*>(inbox_.answers + (u64(future_) << inbox_.answer_log2));
        if (length + 8 > (1u << inbox_.answer_log2)) {
            status = Status::BadPayload;
            length = 0;
        }
        constexpr u32 most = Output::length;
        if (length != 0) {
            CUDA_GREEN_UNROLL((most <= 16 ? most : 4))
            for (u32 i = 0; i < most; ++i)
                if (i * 8 < length) store_word(answer + 1 + i, output.words[i]);
        }
        store_release(answer, u64(generation_) << 32 | length << 8 | u32(status), near());
    }

    // Tells the producers of all rings which slots are free again.
    CUDA_GREEN_DEVICE void tell() {
        for (u32 ring = lane_of_warp(); ring < inbox_.priorities; ring += WARP) {
            u64 now = memory_.positions[ring];
            if (memory_.told[ring] == now) continue;
            memory_.told[ring] = now;
            store_release(reinterpret_cast<u64*>(inbox_.tails + u64(number(ring)) * LINE), now, near());
        }
    }

    CUDA_GREEN_DEVICE void end() {
        tell();
        for (u32 ring = lane_of_warp(); ring < inbox_.priorities; ring += WARP)
            store_relaxed(position(ring), memory_.positions[ring]);
        if (lane_of_warp() == 0) {
            memory_.header[0] = 0;
            memory_.header[1] = NO_FUTURE;
            memory_.header[2] = 0;
            memory_.header[3] = 0;
        }
        sync_warp(ALL);
    }

    // Stores the data of a slot's word where `next` and `read` find it.
    CUDA_GREEN_DEVICE void keep(u32 word, u32 data) {
        if (word < INBOX_HEADER_WORDS)
            memory_.header[word] = data;
        else
            copy(reinterpret_cast<char*>(memory_.payload) + 4 * (word - INBOX_HEADER_WORDS), &data, sizeof data);
    }

    // Polls until a task lies in the shared memory, or the control says that the kernel has to return.
    CUDA_GREEN_DEVICE void poll() {
        // Each ring gets as many of the warp's lanes, a power of two; each lane reads a word of its ring's next slot.
        u32 share_log2 = 0;
        while ((u32(inbox_.priorities) << (share_log2 + 1)) <= WARP) ++share_log2;
        const u32 share = 1u << share_log2, me = lane_of_warp(), ring = me >> share_log2, word = me & (share - 1);
        const u32 slot_words = 1u << (inbox_.slot_log2 - 3);
        const u32 depth = 1u << inbox_.depth_log2;
        const u32 tell_after = depth < 16 ? 1 : depth > 512 ? 64 : depth / 8;
        const bool has_word = ring < inbox_.priorities && word < (near() ? 1 : slot_words);
        for (u32 idle = 0;; ++idle) {
            // The last lane reads the control now and then, in the instruction in which the others read their words.
            const bool look = round_++ % 16 == 0;
            const bool controls = look && me == WARP - 1;
            const bool mine = has_word && !controls;
            const u64 my_ticket = mine ? memory_.positions[ring] : 0;
            const u64* address = controls ? reinterpret_cast<const u64*>(inbox_.controls + u64(lane_) * LINE)
                                          : slot(ring, my_ticket) + word;
            u64 value = 0;
            if (controls || mine) value = load_acquire(address, false);
            // The rings are empty only if they were looked at after the command was read.
            const bool finishing = finishing_ && !(look && share == 1);
            if (look) {
                const u64 command = shuffle(ALL, value, WARP - 1);
                if (command == LEAVE) return end();
                if (command == FINISH) finishing_ = true;
            }
            u32 ready = ballot(ALL, mine && word == 0 && u32(value >> 32) == sequence(my_ticket));
            if (ready == 0) {
                if (finishing) return end();
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
            if (near()) {
                sync_warp(ALL);
                if (me == 0) {
                    const u64 call = load_relaxed(source + 1);
                    keep(0, u32(first));
                    keep(1, u32(call));
                    keep(2, u32(call >> 32));
                }
                // A task that has no room here is no task that `read` gives out.
                if (length <= Capacity && length + SLOT_HEADER <= slot_words * 8) {
                    for (u32 i = me; i < (length + 15) / 16; i += WARP) {
                        const Pair pair = load_pair(source + 2 + 2 * i);
                        memory_.payload[2 * i] = pair.first;
                        memory_.payload[2 * i + 1] = pair.second;
                    }
                }
            } else {
                u32 words = INBOX_HEADER_WORDS + (length + 3) / 4;
                if (length > Capacity || words > slot_words) words = INBOX_HEADER_WORDS;
                const u32 loaded = share - u32(look && (chosen + 1) << share_log2 == WARP);
                bool complete = true;
                if (ring == chosen && word < words && word < loaded) {
                    complete = u32(value >> 32) == sequence(ticket);
                    keep(word, u32(value));
                }
                for (u32 i = loaded + me; i < words; i += WARP) {
                    const u64 more = load_acquire(source + i, false);
                    complete = complete && u32(more >> 32) == sequence(ticket);
                    keep(i, u32(more));
                }
                // The CPU is still writing.
                if (!all(ALL, complete)) continue;
            }
            ++taken_;
            sync_warp(ALL);
            if (me == 0) {
                memory_.header[3] = 1;
                memory_.positions[chosen] = ticket + 1;
            }
            sync_warp(ALL);
            if (ticket + 1 - memory_.told[chosen] >= tell_after) tell();
            return;
        }
    }

    const Inbox inbox_;
    InboxMemory<Capacity>& memory_;
    u32 lane_;
    u32 round_;
    u32 taken_;
    u32 header_;
    u32 future_;
    u32 generation_;
    Status verdict_;
    bool finishing_;
    bool ended_;
};

}  // namespace detail

// Takes tasks with all threads of a block, whose number is that of the inbox's lane. The block needs 32 threads, or a
// multiple of it.
//
//     __shared__ cuda_green::InboxMemory<64> memory;
//     cuda_green::BlockInbox<64> tasks(inbox, memory);
//     while (tasks.next()) {
//         Square square;
//         if (tasks.method() == Square::method && tasks.read(&square)) tasks.reply(square.number * square.number);
//     }
//
// What is left of the inbox's tasks when the kernel returns waits for the next launch, which goes on at the same place.
template <u32 Capacity> class BlockInbox : public detail::Receiver<Capacity, detail::Scope::Block> {
public:
    CUDA_GREEN_DEVICE BlockInbox(const Inbox& inbox, InboxMemory<Capacity>& memory)
        : detail::Receiver<Capacity, detail::Scope::Block>(inbox, memory, detail::block_of_grid()) {}
};

// Takes tasks with the 32 threads of a warp, each warp with memory of its own; by default warp `w` of the grid those of
// lane `w`.
template <u32 Capacity> class WarpInbox : public detail::Receiver<Capacity, detail::Scope::Warp> {
public:
    CUDA_GREEN_DEVICE WarpInbox(const Inbox& inbox, InboxMemory<Capacity>& memory)
        : detail::Receiver<Capacity, detail::Scope::Warp>(inbox, memory, detail::warp_of_grid()) {}
    CUDA_GREEN_DEVICE WarpInbox(const Inbox& inbox, InboxMemory<Capacity>& memory, u32 lane)
        : detail::Receiver<Capacity, detail::Scope::Warp>(inbox, memory, lane) {}
};

}  // namespace cuda_green

#endif  // CUDA_GREEN_QUEUE_CUH
