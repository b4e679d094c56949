// The kernels that use the queue, each as its hand-written twin in raw.cu does.

#include "cuda_green_queue.cuh"

using cuda_green::Queue;
using cuda_green::Status;
using u32 = unsigned int;
using u64 = unsigned long long;

// The payload has the warp in the upper half, and the number of its task in the lower.
struct Note {
    static constexpr unsigned short method = 1;
    using Output = void;
    u64 payload;
};

// The answer is the payload + 1.
struct Ask {
    static constexpr unsigned short method = 2;
    using Output = u64;
    u64 payload;
};

// The longest wait: whatever went wrong by then does not come right.
static constexpr u64 LONGEST = 20000000000ull;

static __device__ __forceinline__ u64 now() {
    u64 time;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time) : : "memory");
    return time;
}

// A moment for each task of a warp, evenly spread over the warps; none if the interval is 0.
struct Pace {
    u64 next, interval;

    __device__ __forceinline__ Pace(u64 interval, u32 warp)
        : next(now() + interval * warp / (gridDim.x * blockDim.x / 32)), interval(interval) {}

    __device__ __forceinline__ void wait() {
        if (interval == 0) return;
        while (now() < next) __nanosleep(500);
        next += interval;
    }
};

// One thread of each warp submits `each` tasks to the lane `warp % lanes`, one in `interval` nanoseconds. Of those that
// were refused, or answered wrongly, it counts one and ends.
extern "C" __global__ void queue_produce(Queue queue, u64 *failed, u32 lanes, u32 each, u64 interval) {
    u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (threadIdx.x % 32) return;
    cuda_green::Where where{warp % lanes, 0};
    Pace pace(interval, warp);
    for (u32 turn = 0; turn < each; turn++) {
        pace.wait();
        if (queue.submit(Note{(u64)warp << 32 | turn}, LONGEST, where) != Status::Accepted) {
            atomicAdd(failed, 1ull);
            return;
        }
    }
}

// All threads of each warp submit at once.
extern "C" __global__ void queue_produce_warp(Queue queue, u64 *failed, u32 lanes, u32 each, u64 interval) {
    u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, thread = threadIdx.x % 32;
    cuda_green::Where where{warp % lanes, 0};
    Pace pace(interval, warp);
    for (u32 turn = 0; turn < each; turn += 32) {
        pace.wait();
        Note note{(u64)warp << 32 | (turn + thread)};
        if (queue.submit_warp(note, LONGEST, where) != Status::Accepted) {
            atomicAdd(failed, 1ull);
            return;
        }
    }
}

// One thread of each warp waits for the answer to each of its tasks, and keeps the times of the first `keep`.
extern "C" __global__ void queue_round_trip(Queue queue, u64 *failed, u32 lanes, u32 each, u32 *times, u32 keep) {
    u32 warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (threadIdx.x % 32) return;
    cuda_green::Where where{warp % lanes, 0};
    for (u32 turn = 0; turn < each; turn++) {
        u64 start = now(), payload = (u64)warp << 32 | turn, answer = 0;
        auto future = queue.call(Ask{payload}, LONGEST, where);
        if (future.wait(&answer, LONGEST) != Status::Done || answer != payload + 1) {
            atomicAdd(failed, 1ull);
            return;
        }
        if (turn < keep) times[(u64)warp * keep + turn] = (u32)(now() - start);
    }
}

// Answers the CPU's tasks, or another kernel's, as the handler of `Ask` on the CPU does. A block for each lane.
extern "C" __global__ void queue_serve(cuda_green::Inbox inbox) {
    __shared__ cuda_green::InboxMemory<64> memory;
    cuda_green::BlockInbox<64> tasks(inbox, memory);
    while (tasks.next()) {
        Ask ask;
        if (tasks.method() == Ask::method && tasks.read(&ask)) tasks.reply(ask.payload + 1);
    }
}
