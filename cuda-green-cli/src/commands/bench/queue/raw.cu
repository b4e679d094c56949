// The hand-written loops that the queue is compared with: flags, and rings of slots in pinned host memory whose head
// producers advance by compare-and-swap. Raw loads and stores, and nothing of the queue.
//
// A ring has 1,024 slots of 128 bytes. As many bytes are written of each as the queue writes for the same task: the ticket
// + 1, the payload (the warp in the upper half, the number of its task in the lower), and 16 bytes more. Its head, and what is known of its tail, lie in device memory on lines of their own. A
// wait gives up after some ten million looks, so that a program that went wrong ends.

typedef unsigned int u32;
typedef unsigned long long u64;

enum : u32 { DEPTH = 1024, SLOT = 16, LINE = 16, LOOKS = 1u << 24 };

static __device__ __forceinline__ u64 load_acquire(const u64 *at) {
    u64 value;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
}

static __device__ __forceinline__ void store_release(u64 *at, u64 value) {
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(at), "l"(value) : "memory");
}

static __device__ __forceinline__ void store_two(u64 *at, u64 one, u64 other) {
    asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(at), "l"(one), "l"(other) : "memory");
}

static __device__ __forceinline__ u64 load_gpu(const u64 *at) {
    u64 value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
    return value;
}

static __device__ __forceinline__ u64 now() {
    u64 time;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
    return time;
}

// Waits until a word is at least a number.
static __device__ __forceinline__ bool wait(const u64 *at, u64 least) {
    for (u32 look = 0; look < LOOKS; look++) {
        if (load_acquire(at) >= least) return true;
    }
    return false;
}

extern "C" __global__ void raw_empty() {}

// Sets `asked` to 1, 2, and so on, and waits for the same in `answered`.
extern "C" __global__ void raw_ping_pong(u64 *asked, u64 *answered, u32 each, u32 *times) {
    if (threadIdx.x) return;
    for (u32 turn = 1; turn <= each; turn++) {
        u64 start = now();
        store_release(asked, turn);
        if (!wait(answered, turn)) return;
        times[turn - 1] = (u32)(now() - start);
    }
}

// Waits for 1, 2, and so on in `asked`, and sets `answered` to the same.
extern "C" __global__ void raw_pong(u64 *asked, u64 *answered, u32 each) {
    if (threadIdx.x) return;
    for (u32 turn = 1; turn <= each; turn++) {
        if (!wait(asked, turn)) return;
        store_release(answered, turn);
    }
}

// Takes `count` tickets, or none. The state is the head, and a line further on what is known of the tail.
static __device__ __forceinline__ bool take(u64 *state, const u64 *tail, u32 count, u64 *ticket) {
    u64 *head = state, *seen = state + LINE;
    for (;;) {
        u64 next = load_gpu(head), known = load_gpu(seen);
        if (next + count - known > DEPTH) {
            known = load_acquire(tail);
            atomicMax(seen, known);
            if (next + count - known > DEPTH) return false;
        }
        if (atomicCAS(head, next, next + count) == next) {
            *ticket = next;
            return true;
        }
    }
}

static __device__ __forceinline__ void put(u64 *slots, u64 ticket, u64 payload) {
    u64 *slot = slots + (ticket % DEPTH) * SLOT;
    store_two(slot + 2, payload, 0);
    slot[1] = payload;
    store_release(slot, ticket + 1);
}

// One thread of each warp submits `each` tasks to the ring `warp % lanes`; with `waits`, it waits for each one's answer, the
// number of the task + 1 on the warp's line, and keeps the times of the first `keep`.
extern "C" __global__ void raw_produce(u64 *slots, u64 *tails, u64 *answers, u64 *states, u32 *times, u32 lanes, u32 each,
                                       u32 waits, u32 keep) {
    u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = warp % lanes;
    if (threadIdx.x % 32) return;
    u64 *ring = slots + (u64)lane * DEPTH * SLOT, *state = states + lane * 2 * LINE, *tail = tails + lane * LINE;
    for (u32 turn = 0; turn < each; turn++) {
        u64 start = now(), ticket;
        u32 looks = 0;
        while (!take(state, tail, 1, &ticket)) {
            __nanosleep(200);
            if (++looks == LOOKS) return;
        }
        put(ring, ticket, (u64)warp << 32 | turn);
        if (!waits) continue;
        if (!wait(answers + (u64)warp * LINE, turn + 1)) return;
        if (turn < keep) times[(u64)warp * keep + turn] = (u32)(now() - start);
    }
}

// All threads of each warp submit at once: 32 tickets for one compare-and-swap.
extern "C" __global__ void raw_produce_warp(u64 *slots, u64 *tails, u64 *answers, u64 *states, u32 *times, u32 lanes,
                                            u32 each, u32 waits, u32 keep) {
    u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = warp % lanes, thread = threadIdx.x % 32;
    u64 *ring = slots + (u64)lane * DEPTH * SLOT, *state = states + lane * 2 * LINE, *tail = tails + lane * LINE;
    for (u32 turn = 0; turn < each; turn += 32) {
        u64 ticket = 0;
        int taken = 1;
        if (thread == 0) {
            u32 looks = 0;
            while (!take(state, tail, 32, &ticket)) {
                __nanosleep(500);
                if (++looks == LOOKS) { taken = 0; break; }
            }
        }
        if (!__shfl_sync(~0u, taken, 0)) return;
        ticket = __shfl_sync(~0u, ticket, 0);
        put(ring, ticket + thread, (u64)warp << 32 | (turn + thread));
    }
}
