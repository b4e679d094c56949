"""What the allocators of CuPy and PyTorch cost, as `cuda-green bench alloc` measures ours; prints JSON.

Each figure has the cost of Python in it (a loop that allocates nothing is measured beside it), so the
times bound the allocators from above. Bytes and fragmentation do not depend on the interpreter.
"""

import importlib
import json
import os
import statistics
import sys
import time

MIB = 1 << 20
LIMIT = 8 << 30
QUICK = "--quick" in sys.argv


class Numbers:
    """MINSTD, as in `cuda-green bench alloc`, so that every allocator sees the same sizes in the same order."""

    def __init__(self):
        self.state = 1

    def below(self, end):
        self.state = self.state * 48271 % 2147483647
        return self.state % end


def pair(allocate, size, rounds, batch):
    times = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        for _ in range(batch):
            allocate(size)  # freed at once, as nothing holds it
        times.append((time.perf_counter_ns() - start) / batch)
    return statistics.median(times)


def workload(allocate, count, most):
    numbers = Numbers()
    blocks, in_use, high, allocated, took = [], 0, 0, 0, 0
    while allocated < count:
        size = 1 + numbers.below(most)
        wants = numbers.below(2) == 0 or not blocks
        if wants and in_use + size <= LIMIT:
            start = time.perf_counter_ns()
            block = allocate(size)
            took += time.perf_counter_ns() - start
            blocks.append((block, size))
            del block
            in_use += size
            allocated += 1
        else:
            at = numbers.below(len(blocks))
            blocks[at], blocks[-1] = blocks[-1], blocks[at]
            start = time.perf_counter_ns()
            _, size = blocks.pop()
            del _
            took += time.perf_counter_ns() - start
            in_use -= size
        high = max(high, in_use)
    return took / count, high


def measure(allocate, from_driver, reset):
    rounds, batch = (3, 100) if QUICK else (50, 2000)
    figures = {}
    for name, size in [("256 B", 256), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", MIB),
                       ("8 MiB", 8 * MIB), ("64 MiB", 64 * MIB), ("1 GiB", 1024 * MIB)]:
        allocate(size)
        figures["pair " + name] = {"ns": pair(allocate, size, rounds, batch)}
    for most in (4, 64):
        for count in (1000,) if QUICK else (1000, 10000, 100000):
            reset()
            each, high = workload(allocate, count, most * MIB)
            taken = from_driver()
            figures[f"random {count} up to {most} MiB"] = {
                "ns": each, "in_use_high_bytes": high, "from_driver_high_bytes": taken,
                "overhead": taken / high - 1,
            }
    return figures


def cupy():
    module = importlib.import_module("cupy")
    pool = module.get_default_memory_pool()

    def reset():
        pool.free_all_blocks()

    # What it took stays until it is reset, so the total after a run is the most of it.
    figures = measure(pool.malloc, pool.total_bytes, reset)
    return {"version": module.__version__, "what": "MemoryPool.malloc", "figures": figures}


def torch():
    module = importlib.import_module("torch")
    module.cuda.init()

    def allocate(size):
        return module.empty(size, dtype=module.uint8, device="cuda")

    def reset():
        module.cuda.empty_cache()
        module.cuda.reset_peak_memory_stats()

    figures = measure(allocate, module.cuda.max_memory_reserved, reset)
    return {"version": module.__version__, "what": "torch.empty, tensor included", "figures": figures}


def main():
    result = {
        "commit": os.environ.get("CUDA_GREEN_COMMIT", "unknown"),
        "command": " ".join(["python3", "xtask/peers/peers_memory.py", *sys.argv[1:]]),
        "caveat": "the interpreter's cost is in every time; python_loop_ns is a loop that allocates nothing",
        "python_loop_ns": pair(lambda size: None, 1, 20, 10000),
    }
    for name, peer in (("cupy", cupy), ("torch", torch)):
        try:
            result[name] = peer()
        except Exception as error:  # a peer that is not there, or has no GPU, is told and not hidden
            result[name] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result, indent=2))
    return 0 if any("figures" in result[name] for name in ("cupy", "torch")) else 1


if __name__ == "__main__":
    sys.exit(main())
