"""What green contexts cost through cuda.core and PyTorch, beside `cuda-green bench activate`; prints JSON.

Each figure has the cost of Python in it (a loop that does nothing is measured beside it). What a peer
refuses is told with its own words.
"""

import importlib
import json
import os
import statistics
import sys
import time

QUICK = "--quick" in sys.argv
SIZES = [64, 32, 24, 12]


def median_ns(action, rounds, batch):
    times = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        for _ in range(batch):
            action()
        times.append((time.perf_counter_ns() - start) / batch)
    return statistics.median(times)


def attempt(action):
    try:
        return action()
    except Exception as error:  # what a peer refuses is a result
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0]}"}


def cuda_core():
    core = importlib.import_module("cuda.core")
    resources = importlib.import_module("cuda.core._device_resources")
    contexts = importlib.import_module("cuda.core._context")
    options = getattr(core, "SMResourceOptions", resources.SMResourceOptions)
    context_options = getattr(core, "ContextOptions", contexts.ContextOptions)
    device = core.Device(0)
    device.set_current()

    def split(count):
        return device.resources.sm.split(options(count=count))

    def create(group):
        return device.create_context(context_options(resources=[group]))

    def quad():
        total = device.resources.sm.sm_count
        groups, remainder = split([total // 4 // 8 * 8] * 4)
        return {"groups": [group.sm_count for group in groups], "remainder": remainder.sm_count}

    def unequal():
        return [group.sm_count for group in split(SIZES)[0]]

    group = split([8])[0][0]
    creations, closings = [], []
    for _ in range(3 if QUICK else 100):
        start = time.perf_counter_ns()
        context = create(group)
        created = time.perf_counter_ns()
        context.close()
        creations.append(created - start)
        closings.append(time.perf_counter_ns() - created)
    context = create(group)

    def there_and_back():
        device.set_current(device.set_current(context))

    figures = {
        "create": {"ns": statistics.median(creations)},
        "close": {"ns": statistics.median(closings)},
        "set_current there and back": {"ns": median_ns(there_and_back, 3 if QUICK else 50, 1000)},
        "quad": attempt(quad),
        "64/32/24/12": attempt(unequal),
    }
    context.close()
    return {"version": core.__version__, "figures": figures}


def torch():
    module = importlib.import_module("torch")
    module.cuda.init()
    module.zeros(1, device="cuda")  # the primary context, which the first use makes
    green = importlib.import_module("torch.cuda.green_contexts").GreenContext

    def create(count):
        return green.create(num_sms=count, device_id=0)

    creations, closings = [], []
    for _ in range(3 if QUICK else 100):
        start = time.perf_counter_ns()
        context = create(8)
        created = time.perf_counter_ns()
        del context
        creations.append(created - start)
        closings.append(time.perf_counter_ns() - created)
    context = create(8)

    def there_and_back():
        context.set_context()
        context.pop_context()

    return {
        "version": module.__version__,
        "figures": {
            "create": {"ns": statistics.median(creations)},
            "close": {"ns": statistics.median(closings)},
            "set_context + pop_context": {"ns": median_ns(there_and_back, 3 if QUICK else 50, 1000)},
        },
    }


def main():
    result = {
        "commit": os.environ.get("CUDA_GREEN_COMMIT", "unknown"),
        "command": " ".join(["python3", "xtask/peers/peers_host.py", *sys.argv[1:]]),
        "caveat": "the interpreter's cost is in every time; python_loop_ns is a loop that does nothing",
        "python_loop_ns": median_ns(lambda: None, 20, 10000),
    }
    for name, peer in (("cuda.core", cuda_core), ("torch", torch)):
        result[name] = attempt(peer)
    print(json.dumps(result, indent=2))
    return 0 if any("figures" in result[name] for name in ("cuda.core", "torch")) else 1


if __name__ == "__main__":
    sys.exit(main())
