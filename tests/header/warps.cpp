// Warps of four lanes by the queue's header, under ThreadSanitizer: teams that lack lanes, teams that need more entries for
// answers than are free, and a resident kernel that returns on its own. Ends with 0 if all is as the header says.

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <functional>
#include <thread>
#include <vector>

#define WARP_LANES 4
#define CUDA_GREEN_QUEUE_MACHINE "machine.h"
#include "cuda_green_queue.cuh"

using namespace cuda_green;

// Fewer entries than two whole teams need at once.
constexpr u32 DEPTH = 8, SLOT = 64, ANSWER = 64, FUTURES = 4, WARPS = 3, TURNS = 300;
constexpr u64 LONGEST = 20000000000;

struct Ask {
    static constexpr unsigned short method = 2;
    using Output = u64;
    u64 number, inverse;
};

static void require(bool is, const char* what) {
    if (is) return;
    fprintf(stderr, "not so: %s\n", what);
    _Exit(1);
}

// All memory of a queue with one ring, or of an inbox with one.
struct Memory {
    alignas(128) u64 tail[LINE / 8] = {};
    alignas(128) u64 control[LINE / 8] = {};
    alignas(128) u64 slots[DEPTH][SLOT / 8] = {};
    alignas(128) u64 answers[FUTURES][ANSWER / 8] = {};
    RingState ring = {};
    InboxPosition position = {};
    u32 futures[FUTURES] = {};

    Memory() {
        ring.credits = DEPTH;
        for (u32& word : futures) word = 1 << 2;
    }
    static u64 at(const void* part) { return u64(part); }
    Queue queue(u32 entries) const {
        return Queue{QUEUE_MAGIC, at(slots), at(tail), at(answers), at(&ring), at(futures), VERSION, entries, 1, 1, 3, 6, 6, 0};
    }
    Inbox inbox() const {
        return Inbox{INBOX_MAGIC, at(slots), at(tail), at(answers), at(control), at(&position), VERSION, FUTURES, 1, 1, 3, 6, 6,
                     0};
    }
};

// Runs a function in each of a warp's lanes that the team names.
static void in_lanes(u32 warp, u32 team, const std::function<void(u32)>& run) {
    detail::Meeting meeting;
    std::vector<std::thread> lanes;
    for (u32 lane = 0; lane < WARP_LANES; lane++)
        if (team >> lane & 1)
            lanes.emplace_back([&, lane] {
                detail::thread_number = warp;
                detail::own_lane = lane;
                detail::own_team = team;
                detail::meeting = &meeting;
                run(lane);
            });
    for (auto& lane : lanes) lane.join();
}

// Runs tasks, and answers those that want it, until the producers have ended and the ring is empty. Returns how many.
static u64 consume(Memory& memory, const u32& running) {
    u64 position = 0;
    for (bool ended = false;;) {
        u64* slot = memory.slots[position % DEPTH];
        u64 first = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
        if (u32(first >> 32) != u32(position / DEPTH) + 1) {
            if (ended) return position;
            ended = __atomic_load_n(&running, __ATOMIC_ACQUIRE) == 0;
            sched_yield();
            continue;
        }
        u64 call = slot[1];
        require(slot[3] == ~slot[2], "a payload");
        if (u32(call) != NO_FUTURE) {
            u64* entry = memory.answers[u32(call)];
            entry[1] = slot[2] + 1;
            __atomic_store_n(entry, (call >> 32) << 32 | 8 << 8 | u32(Status::Done), __ATOMIC_RELEASE);
        }
        __atomic_store_n(memory.tail, ++position, __ATOMIC_RELEASE);
    }
}

// Teams of three and of four lanes submit, and call where the entries are enough for one team at a time. A lane that is
// not there has no ticket, and no team keeps entries while it waits for more.
static void teams() {
    Memory memory;
    const Queue queue = memory.queue(FUTURES);
    u32 running = WARPS;
    u64 seen = 0, expected = 0;
    std::thread consumer([&] { seen = consume(memory, running); });
    std::vector<std::thread> warps;
    for (u32 warp = 0; warp < WARPS; warp++) {
        const u32 team = warp == 0 ? 0b1011 : 0b1111;
        expected += u64(TURNS) * 2 * detail::count_bits(team);
        warps.emplace_back([&, warp, team] {
            in_lanes(warp, team, [&](u32 lane) {
                for (u32 turn = 0; turn < TURNS; turn++) {
                    u64 number = u64(warp) << 32 | (turn * WARP_LANES + lane), answer = 0;
                    require(queue.submit_warp(Ask{number, ~number}, LONGEST) == Status::Accepted, "a team's submission");
                    auto future = queue.call_warp(Ask{number, ~number}, LONGEST);
                    require(future.status() == Status::Pending, "a team's call");
                    // Some are abandoned.
                    if (turn % 7 == lane) continue;
                    require(future.wait(&answer, LONGEST) == Status::Done && answer == number + 1, "a team's answer");
                }
            });
            __atomic_fetch_sub(&running, 1, __ATOMIC_RELEASE);
        });
    }
    for (auto& warp : warps) warp.join();
    consumer.join();
    require(seen == expected, "every task of a team was run once");
}

// What can never be is said at once.
static void too_large() {
    Memory memory;
    in_lanes(0, 0b1111, [&](u32) {
        auto future = memory.queue(2).call_warp(Ask{1, ~u64(1)}, LONGEST);
        require(future.status() == Status::Invalid, "a team of more lanes than there are entries");
    });
    require(memory.ring.credits == DEPTH && memory.ring.head == 0, "what was refused is given back");
}

// A call takes an entry wherever one is free, whatever is held beside its own.
static void far_entries() {
    constexpr u32 MANY = 1024;
    static u64 answers[MANY][ANSWER / 8];
    static u32 futures[MANY];
    Memory memory;
    Queue queue = memory.queue(MANY);
    queue.answers = u64(answers);
    queue.futures = u64(futures);
    for (u32 number = 0; number < MANY; number++) futures[number] = 1 << 2 | (number < MANY / 2 || number >= MANY - 4 ? 1 : 0);
    in_lanes(0, 1, [&](u32) {
        for (u32 turn = 0; turn < DEPTH; turn++) {
            auto future = queue.call(Ask{turn, ~u64(turn)}, LONGEST);
            require(future.status() == Status::Pending, "a call beside many that are held");
        }
    });
    require(memory.ring.head == DEPTH, "all were submitted");
}

// Writes a task into an inbox as the CPU does.
static void post(Memory& memory, u64 ticket, u64 number) {
    u64* slot = memory.slots[ticket % DEPTH];
    u64 sequence = (ticket / DEPTH + 1) << 32;
    const u32 words[7] = {u32(Ask::method) << 16 | 16, u32(ticket % FUTURES), u32(ticket / FUTURES) + 1, u32(number),
                          u32(number >> 32), u32(~number), u32(~number >> 32)};
    for (u32 i = 7; i-- > 0;) __atomic_store_n(&slot[i], sequence | words[i], __ATOMIC_RELEASE);
}

// A kernel takes some tasks and returns without having been told to; the next launch goes on behind them. The last of each
// launch was taken and not replied to, and is answered all the same.
static void returns_on_its_own() {
    Memory memory;
    std::vector<u64> done;
    u64 posted = 0;
    for (u32 taken : {3u, 1u, 4u, 0u, 5u}) {
        while (posted < done.size() + taken) {
            post(memory, posted, posted * 3);
            posted++;
        }
        InboxMemory<16> shared;
        in_lanes(0, 0b1111, [&](u32 lane) {
            BlockInbox<16> tasks(memory.inbox(), shared);
            for (u32 i = 0; i < taken; i++) {
                require(tasks.next(), "a task of a resident kernel");
                Ask ask;
                require(tasks.method() == Ask::method && tasks.read(&ask) && ask.inverse == ~ask.number, "its payload");
                if (lane == 0) done.push_back(ask.number);
                if (i + 1 < taken) tasks.reply(ask.number + 1);
            }
            require(memory.control[1] == 1, "a block that runs says so");
        });
        require(memory.control[1] == 0, "a block that has returned says so");
        require(memory.position.position == done.size(), "the place of the next launch");
        require(memory.tail[0] == done.size(), "the tail that producers see");
        if (taken == 0) continue;
        u64 last = done.size() - 1, answer = memory.answers[last % FUTURES][0];
        require(u32(answer >> 32) == u32(last / FUTURES) + 1 && u8(answer) == u8(Status::Done), "the last one's answer");
    }
    for (u64 i = 0; i < done.size(); i++) require(done[i] == i * 3, "each task is done once, in order");
}

// A kernel that was told to leave before it started takes nothing.
static void told_to_leave() {
    Memory memory;
    post(memory, 0, 5);
    memory.control[0] = LEAVE;
    InboxMemory<16> shared;
    in_lanes(0, 0b1111, [&](u32) {
        BlockInbox<16> tasks(memory.inbox(), shared);
        require(!tasks.next(), "a command before the first task");
    });
    require(memory.control[1] == 0 && memory.position.position == 0, "it took nothing");
}

int main() {
    too_large();
    far_entries();
    teams();
    returns_on_its_own();
    told_to_leave();
}
