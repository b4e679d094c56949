// What is PTX in the queue's header, for threads of a CPU. Each is a lane of a warp of WARP_LANES lanes, one by default, and
// that warp is its block. Included by the header.
//
// The payload of tasks and answers is stored and loaded plainly, so that ThreadSanitizer sees whether the protocol orders
// it. MUTANT breaks one of the orders.

#ifndef WARP_LANES
#define WARP_LANES 1
#endif
constexpr u32 WARP = WARP_LANES;

#define MUTANT_COMMIT 1
#define MUTANT_CREDITS 2
#define MUTANT_LOADS 3
#ifndef MUTANT
#define MUTANT 0
#endif

constexpr int RELEASE = MUTANT == MUTANT_COMMIT ? __ATOMIC_RELAXED : __ATOMIC_RELEASE;
constexpr int BOTH = MUTANT == MUTANT_CREDITS ? __ATOMIC_RELAXED : __ATOMIC_ACQ_REL;
constexpr int ACQUIRE = MUTANT == MUTANT_LOADS ? __ATOMIC_RELAXED : __ATOMIC_ACQUIRE;

inline u64 load_relaxed(const u64* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
inline u32 load_relaxed(const u32* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
inline void store_relaxed(u64* at, u64 value) { __atomic_store_n(at, value, __ATOMIC_RELAXED); }
inline u64 add(u64* at, u64 value) { return __atomic_fetch_add(at, value, BOTH); }
inline void add_only(u64* at, u64 value) { (void)add(at, value); }
inline void add_only(u32* at, u32 value) { (void)__atomic_fetch_add(at, value, BOTH); }
inline void add_release(u32* at, u32 value) { add_only(at, value); }
inline u32 set_bits(u32* at, u32 bits) { return __atomic_fetch_or(at, bits, BOTH); }
inline void set_bits_only(u32* at, u32 bits) { (void)set_bits(at, bits); }
inline bool replace(u32* at, u32 expected, u32 value) {
    return __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
inline bool try_lock(u32* at) { return __atomic_exchange_n(at, 1u, __ATOMIC_ACQUIRE) == 0; }
inline void unlock(u32* at) { __atomic_store_n(at, 0u, __ATOMIC_RELEASE); }

inline u64 load_acquire(const u64* at, bool) { return __atomic_load_n(at, ACQUIRE); }
inline void store_release(u64* at, u64 value, bool) { __atomic_store_n(at, value, RELEASE); }
inline void store_and_fence(u64* at, u64 value) { __atomic_store_n(at, value, __ATOMIC_SEQ_CST); }
inline void store_word(u64* at, u64 value) { *at = value; }
inline u64 load_word(const u64* at) { return *at; }
inline void store_pair(u64* at, Pair value) {
    at[0] = value.first;
    at[1] = value.second;
}
inline Pair load_pair(const u64* at) { return {at[0], at[1]}; }
inline Pair load_pair_acquire(const u64* at, bool near, u32 expected) {
    u64 first = load_acquire(at, near);
    return {first, u32(first >> 32) == expected ? at[1] : 0};
}

inline u64 nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return u64(now.tv_sec) * 1000000000 + u64(now.tv_nsec);
}
inline thread_local u32 thread_number = 0;
// Gives way a few times, by chance. Once each time would bring the threads into a fixed order where they share a core, and
// whoever comes just after the consumer would take all room for ever.
inline void pause(u32) {
    static thread_local u32 random = thread_number + 1;
    random ^= random << 13, random ^= random >> 17, random ^= random << 5;
    for (u32 turns = random % 8 + 1; turns != 0; turns--) sched_yield();
}

// Where the lanes of a warp meet.
struct Meeting {
    u32 arrived = 0, round = 0;
    u64 values[WARP] = {};
};
// A thread's lane, the lanes of its warp that take part in what it calls, and where they meet.
inline thread_local u32 own_lane = 0, own_team = 1;
inline thread_local Meeting* meeting = nullptr;

inline u32 count_bits(u32 bits) { return u32(__builtin_popcount(bits)); }
inline u32 first_bit(u32 bits) { return u32(__builtin_ffs(int(bits))) - 1; }

inline void meet() {
    if (own_team == 1) return;
    u32 round = __atomic_load_n(&meeting->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&meeting->arrived, 1, __ATOMIC_ACQ_REL) == count_bits(own_team)) {
        __atomic_store_n(&meeting->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&meeting->round, round + 1, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(&meeting->round, __ATOMIC_ACQUIRE) == round) sched_yield();
}

inline u32 multiprocessor() { return thread_number; }
inline u32 lane_of_warp() { return own_lane; }
inline u32 lanes_of_warp() { return own_team; }
inline u32 thread_of_block() { return own_lane; }
inline u32 threads_of_block() { return WARP; }
inline u32 block_of_grid() { return thread_number; }
inline u32 warp_of_grid() { return thread_number; }
template <class T> inline T shuffle(u32, T value, u32 from) {
    if (own_team == 1) return value;
    meeting->values[own_lane] = value;
    meet();
    T other = T(meeting->values[from]);
    meet();
    return other;
}
inline u32 ballot(u32, bool value) {
    if (own_team == 1) return value;
    meeting->values[own_lane] = value;
    meet();
    u32 bits = 0;
    for (u32 lane = 0; lane < WARP; lane++)
        if (own_team >> lane & 1) bits |= u32(meeting->values[lane]) << lane;
    meet();
    return bits;
}
inline bool all(u32 mask, bool value) { return ballot(mask, value) == own_team; }
inline void sync_warp(u32) { meet(); }
inline void sync_block() { meet(); }
inline void copy(void* to, const void* from, u64 bytes) { __builtin_memcpy(to, from, bytes); }
