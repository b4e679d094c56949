// What the suite's cases of queues run on a GPU. Each kernel has a twin in Rust in queue_bodies.rs, for simulated drivers.

#include "cuda_green_queue.cuh"

using cuda_green::Queue;
using cuda_green::Status;
using cuda_green::Where;
using u32 = unsigned int;
using u64 = unsigned long long;

// Counted, and not answered.
struct Note {
    static constexpr unsigned short method = 1;
    using Output = void;
    u64 number;
};

// Answered by the number + 1.
struct Ask {
    static constexpr unsigned short method = 2;
    using Output = u64;
    u64 number;
};

// Fails by the number.
struct Fail {
    static constexpr unsigned short method = 3;
    using Output = u32;
    u32 number;
};

// Its handler panics.
struct Panic {
    static constexpr unsigned short method = 4;
    using Output = void;
};

// Nobody handles it.
struct Unknown {
    static constexpr unsigned short method = 99;
    using Output = void;
};

// An Ask that is too short.
struct Short {
    static constexpr unsigned short method = Ask::method;
    using Output = u64;
    u32 number;
};

// Longer than one slot's first line, with an output longer than what comes with the status.
struct Long {
    static constexpr unsigned short method = 5;
    using Output = struct { u64 words[3]; };
    u64 words[12];
};

// Longer than any slot.
struct Huge {
    static constexpr unsigned short method = 6;
    using Output = void;
    u64 words[64];
};

static constexpr u64 LONGEST = 20000000000ull;

static __device__ __forceinline__ u32 warp_number() { return (blockIdx.x * blockDim.x + threadIdx.x) / 32; }

static __device__ __forceinline__ void add(u64 *at) { atomicAdd(at, 1ull); }

// Each thread submits `each` tasks, by itself and with its warp in turn, to all lanes and priorities. Their numbers begin
// with `first`. `found` counts the tasks that were accepted.
extern "C" __global__ void suite_submit(Queue queue, u64 *found, u64 first, u32 each) {
    u64 thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (u32 turn = 0; turn < each; turn++) {
        Note note{first + thread * each + turn};
        Where where{(warp_number() + turn) % queue.lanes, turn / 2 % queue.priorities};
        Status status = turn % 2 == 0 ? queue.submit(note, LONGEST, where)
                                      : queue.submit_warp(note, LONGEST, where);
        if (status == Status::Accepted) add(found);
    }
}

// One thread fills a ring whose handler stands still. `found` has how many tasks were accepted in all, what the first
// refused attempt returned, and what waiting for room came to in the end.
extern "C" __global__ void suite_fill(Queue queue, u64 *found) {
    if (blockIdx.x || threadIdx.x) return;
    Status tried = Status::Accepted, waited = Status::Accepted;
    u64 accepted = 0;
    while (tried == Status::Accepted && accepted < 1000) {
        tried = queue.try_submit(Note{0}, Where{0, 0});
        if (tried == Status::Accepted) accepted++;
    }
    while (waited == Status::Accepted && accepted < 2000) {
        waited = queue.submit(Note{0}, 1000000ull, Where{0, 0});
        if (waited == Status::Accepted) accepted++;
    }
    found[0] = accepted;
    found[1] = (u64)tried;
    found[2] = (u64)waited;
}

// One thread waits too short a time for an answer, says so to the CPU, and waits again.
extern "C" __global__ void suite_deadline(Queue queue, u64 *found, volatile u64 *said) {
    if (blockIdx.x || threadIdx.x) return;
    u64 answer = 0;
    auto future = queue.call(Ask{41}, LONGEST);
    found[0] = (u64)future.poll(&answer);
    found[1] = (u64)future.wait(&answer, 1000000ull);
    *said = 1;
    __threadfence_system();
    found[2] = (u64)future.wait(&answer, LONGEST);
    found[3] = answer;
}

// What one thread is answered, in turn.
extern "C" __global__ void suite_outcomes(Queue queue, u64 *found) {
    if (blockIdx.x || threadIdx.x) return;
    u64 answer = 0;
    auto ask = queue.call(Ask{1}, LONGEST);
    found[0] = (u64)ask.wait(&answer, LONGEST);
    found[1] = answer;
    auto failing = queue.call(Fail{77}, LONGEST);
    found[2] = (u64)failing.wait(LONGEST);
    found[3] = failing.code();
    found[4] = (u64)queue.call(Panic{}, LONGEST).wait(LONGEST);
    found[5] = (u64)queue.call(Unknown{}, LONGEST).wait(LONGEST);
    found[6] = (u64)queue.call(Short{1}, LONGEST).wait(LONGEST);
    Long task{};
    for (u32 i = 0; i < 12; i++) task.words[i] = i + 1;
    Long::Output output{};
    found[7] = (u64)queue.call(task, LONGEST).wait(&output, LONGEST);
    found[8] = output.words[0];
    found[9] = output.words[1];
    found[10] = output.words[2];
    found[11] = (u64)queue.try_submit(Huge{});
    found[12] = (u64)queue.try_submit(Note{0}, Where{queue.lanes, 0});
    {
        auto abandoned = queue.call(Ask{2}, LONGEST);
    }
}

// Each warp asks again and again until the queue is closed. `found` counts the answers, the calls that were answered as
// closed after they had been accepted, the warps to which the queue was closed, and those that ended otherwise.
extern "C" __global__ void suite_until_closed(Queue queue, u64 *found) {
    if (threadIdx.x % 32) return;
    for (u64 turn = 0;; turn++) {
        u64 number = (u64)warp_number() << 32 | turn, answer = 0;
        auto future = queue.call(Ask{number}, LONGEST);
        if (future.status() == Status::Closed) return add(found + 2);
        if (future.status() != Status::Pending) return add(found + 3);
        Status status = future.wait(&answer, LONGEST);
        if (status == Status::Done && answer == number + 1)
            add(found);
        else if (status == Status::Closed)
            add(found + 1);
        else
            return add(found + 3);
    }
}

// Takes the tasks of a lane with each block, and answers as the CPU does, but that nothing panics here. `found` counts by
// block what was done.
extern "C" __global__ void suite_serve(cuda_green::Inbox inbox, u64 *found) {
    __shared__ cuda_green::InboxMemory<96> memory;
    cuda_green::BlockInbox<96> tasks(inbox, memory);
    while (tasks.next()) {
        if (threadIdx.x == 0) found[blockIdx.x] += 1;
        Ask ask;
        Fail fail;
        Long task;
        switch (tasks.method()) {
        case Ask::method:
            if (tasks.read(&ask)) tasks.reply(ask.number + 1);
            break;
        case Fail::method:
            if (tasks.read(&fail)) tasks.fail(fail.number);
            break;
        case Long::method:
            if (tasks.read(&task)) {
                u64 sum = 0;
                for (u32 i = 0; i < 12; i++) sum += task.words[i];
                tasks.reply(Long::Output{{task.words[0], task.words[11], sum}});
            }
            break;
        }
    }
}
