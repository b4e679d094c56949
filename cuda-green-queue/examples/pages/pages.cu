// Walkers of a linked list that lies in pages, most of which a walker has to ask the CPU for.

#include "cuda_green_queue.cuh"

using cuda_green::Queue;
using cuda_green::Status;
using u32 = unsigned int;
using u64 = unsigned long long;

// Nodes of a page, and pages that a walker remembers the addresses of.
enum : u32 { NODES = 512, KNOWN = 16 };

// Asks for the address of a page.
struct Page {
    static constexpr unsigned short method = 1;
    using Output = u64;
    u64 number;
};

static constexpr u64 SECOND = 1000000000ull;

// Each warp has a walker, its first thread, that follows `steps` links from the node `start + walker * stride`. A node is the
// number of the next one. `found` has for each walker the sum of the nodes, the pages that it asked for, and whether it
// came to the end: three words.
extern "C" __global__ void walk(Queue queue, u64 start, u64 stride, u32 steps, u64 *found) {
    u32 walker = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (threadIdx.x % 32) return;
    u64 pages[KNOWN], addresses[KNOWN];
    for (u32 i = 0; i < KNOWN; i++) pages[i] = ~0ull;
    u64 node = start + walker * stride, sum = 0, asked = 0;
    for (u32 step = 0; step < steps; step++) {
        u64 page = node / NODES;
        u32 place = page % KNOWN;
        if (pages[place] != page) {
            auto future = queue.call(Page{page}, 10 * SECOND);
            if (future.wait(&addresses[place], 10 * SECOND) != Status::Done) return;
            pages[place] = page;
            asked++;
        }
        node = ((const volatile u64 *)addresses[place])[node % NODES];
        sum += node;
    }
    found[3 * walker] = sum;
    found[3 * walker + 1] = asked;
    found[3 * walker + 2] = 1;
}
