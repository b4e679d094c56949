"""NVIDIA's `cuda-core`: devices, streams, events and green contexts as its users write them."""

import sys

from cuda.core import ContextOptions, Device, LaunchConfig, ObjectCode, SMResourceOptions, launch

version = int(sys.argv[1])
device = Device(0)
device.set_current()
total = device.resources.sm.sm_count
stream = device.create_stream()
event = device.create_event()
stream.record(event)
stream.wait(event)
event.sync()
buffer = device.allocate(4096, stream=stream)
assert buffer.size == 4096
buffer.close(stream)
ptx = b".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry k() { ret; }\n"
kernel = ObjectCode.from_ptx(ptx).get_kernel("k")
launch(stream, LaunchConfig(grid=1, block=32), kernel)
stream.sync()
stream.close()

groups, rest = device.resources.sm.split(SMResourceOptions(count=(32, 32)))
assert [group.sm_count for group in groups] == [32, 32]
assert rest.sm_count == total - 64
try:
    unequal, _ = device.resources.sm.split(SMResourceOptions(count=(32, 64)))
    assert version >= 13010 and [group.sm_count for group in unequal] == [32, 64]
except RuntimeError as error:
    assert version < 13010 and "13.1" in str(error), error

context = device.create_context(ContextOptions(resources=[groups[0]]))
assert context.is_green
stream = context.create_stream()
assert stream.resources.sm.sm_count == 32
stream.sync()
stream.close()
previous = device.set_current(context)
device.set_current(previous)
context.close()
print("went well")
