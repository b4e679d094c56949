// Producers by the queue's header, and one consumer, as threads under ThreadSanitizer. Two small rings, so that they are
// full and wrap all the time, and fewer entries for answers than calls that are abandoned. Ends with 0 if every task came
// in once and unharmed, and every answer was the right one.

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <thread>
#include <vector>

#define CUDA_GREEN_QUEUE_MACHINE "machine.h"
#include "cuda_green_queue.cuh"
// The layout as Rust has it.
#include "layout_probe.cu"

using namespace cuda_green;

constexpr u32 LANES = 2, DEPTH = 8, SLOT = 64, ANSWER = 64, FUTURES = 8;
constexpr u32 PRODUCERS = 6, TURNS = 3000;
// As many of the producers call too. What the others learn of the consumer, they learn from credits alone.
constexpr u32 CALLERS = 2;
constexpr u64 LONGEST = 20000000000;

struct Note {
    static constexpr unsigned short method = 1;
    using Output = void;
    u64 producer, turn, sum;
};

struct Ask {
    static constexpr unsigned short method = 2;
    struct Output {
        u64 words[4];
    };
    u64 number, inverse;
};

struct Short {
    static constexpr unsigned short method = 3;
    using Output = u32;
    u32 number;
};

static void require(bool is, const char* what) {
    if (is) return;
    fprintf(stderr, "not so: %s\n", what);
    _Exit(1);
}

// All memory of a queue.
struct Memory {
    alignas(128) u64 tails[LANES][LINE / 8];
    alignas(128) u64 slots[LANES][DEPTH][SLOT / 8];
    alignas(128) u64 answers[FUTURES][ANSWER / 8];
    RingState rings[LANES];
    u32 futures[FUTURES];
};

static Memory memory;

static Queue make() {
    for (u32 lane = 0; lane < LANES; lane++) memory.rings[lane].credits = DEPTH;
    for (u32& word : memory.futures) word = 1 << 2;
    auto at = [](auto& part) { return u64(&part); };
    return Queue{QUEUE_MAGIC, at(memory.slots), at(memory.tails), at(memory.answers), at(memory.rings),
                 at(memory.futures), VERSION, FUTURES, LANES, 1, 3, 6, 6, 0};
}

static void answer(u64 call, u32 length, const u64* words) {
    if (u32(call) == NO_FUTURE) return;
    require(u32(call) < FUTURES, "the future's number");
    u64* entry = memory.answers[u32(call)];
    for (u32 i = 0; i * 8 < length; i++) entry[1 + i] = words[i];
    __atomic_store_n(entry, (call >> 32) << 32 | length << 8 | u32(Status::Done), __ATOMIC_RELEASE);
}

static u32 running = PRODUCERS;

// Runs tasks until all of the turns came in and some more, then closes the rings, and goes on until all producers have
// ended.
static u64 consume(u64 expected) {
    u64 positions[LANES] = {}, seen = 0, late = 0;
    std::vector<u32> next(PRODUCERS);
    bool closed = false;
    for (bool ended = false, idle = false; !ended || !idle;) {
        ended = __atomic_load_n(&running, __ATOMIC_ACQUIRE) == 0;
        idle = true;
        for (u32 lane = 0; lane < LANES; lane++) {
            u64& position = positions[lane];
            u64* slot = memory.slots[lane][position % DEPTH];
            u64 first = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
            if (u32(first >> 32) != u32(position / DEPTH) + 1) continue;
            u64 call = slot[1], method = first >> 16 & 0xffff, length = first & 0xffff;
            if (method == Note::method) {
                require(length == sizeof(Note) && u32(call) == NO_FUTURE, "a note");
                Note note{slot[2], slot[3], slot[4]};
                require(note.producer < PRODUCERS && note.sum == note.producer + note.turn, "a note's payload");
                require(note.turn == next[note.producer]++, "the order of a producer's notes");
            } else if (method == Ask::method) {
                require(length == 16 && slot[3] == ~slot[2], "an ask's payload");
                u64 words[4] = {slot[2] + 1, slot[2] + 2, slot[2] + 3, slot[2] + 4};
                answer(call, 32, words);
            } else {
                require(method == Short::method && length == 4, "a short task");
                u64 word = u32(slot[2]) * 2;
                answer(call, 4, &word);
                late += u32(call) == NO_FUTURE;
            }
            position++, seen++, idle = false;
            if (!closed) __atomic_store_n(memory.tails[lane], position, __ATOMIC_RELEASE);
        }
        if (idle) sched_yield();
        if (!closed && seen - late == expected && late >= 1000) {
            closed = true;
            for (u32 lane = 0; lane < LANES; lane++)
                __atomic_store_n(memory.tails[lane], positions[lane] | CLOSED, __ATOMIC_RELEASE);
        }
    }
    return seen;
}

// Returns how many tasks were accepted beyond the turns.
static u64 produce(const Queue& queue, u32 producer) {
    detail::thread_number = producer;
    Where where{producer % LANES};
    for (u64 turn = 0; turn < TURNS; turn++) {
        Status status = turn % 2 ? queue.submit(Note{producer, turn, producer + turn}, LONGEST, where)
                                 : queue.submit_warp(Note{producer, turn, producer + turn}, LONGEST, where);
        require(status == Status::Accepted, "a submission");
        if (producer >= CALLERS) continue;
        u64 number = u64(producer) << 32 | turn;
        auto future = turn % 4 == 3 ? queue.call_warp(Ask{number, ~number}, LONGEST)
                                    : queue.call(Ask{number, ~number}, LONGEST);
        require(future.status() == Status::Pending, "a call");
        // Each fifth is abandoned.
        if (turn % 5 == 0) continue;
        Ask::Output output{};
        require(future.wait(&output, LONGEST) == Status::Done, "an answer");
        for (u64 i = 0; i < 4; i++) require(output.words[i] == number + i + 1, "an answer's output");
        u32 twice = 0;
        auto other = queue.call(Short{u32(turn)}, LONGEST);
        require(other.wait(&twice, LONGEST) == Status::Done && twice == turn * 2, "a short answer");
    }
    // Until the queue is closed: what is accepted now is run too.
    for (u64 more = 0;; more++) {
        Status status = queue.submit(Short{0}, LONGEST, where);
        if (status == Status::Closed) return more;
        require(status == Status::Accepted, "a late submission");
    }
}

int main() {
    const Queue queue = make();
    u64 more[PRODUCERS] = {}, seen = 0;
    const u64 expected = u64(PRODUCERS) * TURNS + u64(CALLERS) * (TURNS + TURNS / 5 * 4);
    std::vector<std::thread> producers;
    for (u32 producer = 0; producer < PRODUCERS; producer++)
        producers.emplace_back([&, producer] {
            more[producer] = produce(queue, producer);
            __atomic_fetch_sub(&running, 1, __ATOMIC_RELEASE);
        });
    std::thread consumer([&] { seen = consume(expected); });
    for (auto& producer : producers) producer.join();
    consumer.join();
    u64 accepted = expected;
    for (u64 count : more) accepted += count;
    require(seen == accepted, "every accepted task was run");
    printf("%llu tasks\n", seen);
}
