//! Memory that streams still use, in virtual time: random operations over three streams, beside captures, from several
//! threads, and with driver calls that fail. The test knows by events of its own which addresses each stream's work
//! uses until when. Whatever is handed out or given back to the driver meanwhile is a fault, and so is work that ends
//! before earlier work in another stream on the same memory.

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use crate::alone;
use cuda_green::{
    CaptureMode, ContextPolicy, CudaDevice, Driver, Error, Event, GpuBuffer, GpuMemoryPool,
    GreenContext, Kernel, LaunchConfig, Module, PinnedBuffer, Result, Stream, kernels,
    sim::{BlockCost, Injection, Sim},
    sys::{CUpointer_attribute, CUresult},
};
use proptest::{prelude::*, sample::Index};

const LIMIT: u64 = 24 << 20;
/// Blocks of slabs, and allocations of the driver's own.
const SIZES: [usize; 3] = [4096, 100_000, 3 << 20];
const PINNED: usize = 1000;

#[derive(Clone, Debug)]
enum What {
    Allocate {
        pool: Index,
        size: usize,
        stream: Option<usize>,
    },
    Fill {
        held: Index,
        stream: usize,
    },
    /// A copy in a stream between a buffer and the pinned memory.
    CopyOn {
        held: Index,
        stream: usize,
        to_pinned: bool,
    },
    /// A copy or a fill that waits.
    Copy {
        held: Index,
        way: usize,
    },
    /// A kernel that uses a buffer, which is told of it, or freed in the stream's order.
    Launch {
        held: Index,
        stream: usize,
        micros: u32,
        free: bool,
    },
    Drop {
        held: Index,
    },
    LookAtPinned,
    DropPinned,
    Trim {
        pool: Index,
    },
    Child {
        pool: Index,
        limit: u64,
        reserve: bool,
    },
    DropPool {
        pool: Index,
    },
    Pass {
        micros: u64,
    },
}

#[derive(Clone, Debug)]
struct Fault {
    calls: &'static [&'static str],
    nth: u64,
    onwards: bool,
    code: CUresult,
}

#[derive(Clone, Debug)]
struct Step {
    what: What,
    /// On another thread, whose blocks at hand are others.
    elsewhere: bool,
    /// While this thread captures a stream that has to do with nothing.
    beside: Option<CaptureMode>,
    fault: Option<Fault>,
}

/// What fails together.
const CALLS: [&[&str]; 12] = [
    &["cuEventQuery"],
    &["cuEventQuery", "cuEventSynchronize"],
    &["cuEventSynchronize"],
    &["cuEventRecord"],
    &["cuEventRecord", "cuStreamSynchronize"],
    &["cuEventCreate"],
    &["cuEventCreate", "cuStreamSynchronize"],
    &["cuStreamWaitEvent"],
    &["cuStreamIsCapturing"],
    &["cuMemFreeAsync"],
    &["cuMemAllocFromPoolAsync"],
    &["cuThreadExchangeStreamCaptureMode"],
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let stream = || 0..3usize;
    let size = prop::sample::select(SIZES.to_vec());
    let what = prop_oneof![
        12 => (index(), size, prop::option::of(stream()))
            .prop_map(|(pool, size, stream)| What::Allocate { pool, size, stream }),
        4 => (index(), stream()).prop_map(|(held, stream)| What::Fill { held, stream }),
        3 => (index(), stream(), any::<bool>())
            .prop_map(|(held, stream, to_pinned)| What::CopyOn { held, stream, to_pinned }),
        1 => (index(), 0..3usize).prop_map(|(held, way)| What::Copy { held, way }),
        8 => (index(), stream(), 20..2_000u32, any::<bool>())
            .prop_map(|(held, stream, micros, free)| What::Launch { held, stream, micros, free }),
        6 => index().prop_map(|held| What::Drop { held }),
        1 => Just(What::LookAtPinned),
        1 => Just(What::DropPinned),
        1 => index().prop_map(|pool| What::Trim { pool }),
        1 => (index(), 1..20u64, any::<bool>())
            .prop_map(|(pool, mib, reserve)| What::Child { pool, limit: mib << 20, reserve }),
        1 => index().prop_map(|pool| What::DropPool { pool }),
        2 => (10..1_000u64).prop_map(|micros| What::Pass { micros }),
    ];
    let modes = vec![CaptureMode::Global, CaptureMode::ThreadLocal];
    let codes = vec![
        CUresult::CUDA_ERROR_INVALID_VALUE,
        CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
    ];
    let fault = (
        prop::sample::select(CALLS.to_vec()),
        1..3u64,
        any::<bool>(),
        prop::sample::select(codes),
    )
        .prop_map(|(calls, nth, onwards, code)| Fault {
            calls,
            nth,
            onwards,
            code,
        });
    let step = (
        what,
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, prop::sample::select(modes)),
        prop::option::weighted(0.3, fault),
    )
        .prop_map(|(what, elsewhere, beside, fault)| Step {
            what,
            elsewhere,
            beside,
            fault,
        });
    prop::collection::vec(step, 1..120)
}

/// Addresses, of the device or of pinned memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    pinned: bool,
    start: u64,
    end: u64,
}

impl Range {
    fn of(buffer: &GpuBuffer) -> Self {
        let start = buffer.address();
        Self {
            pinned: false,
            start,
            end: start + buffer.len() as u64,
        }
    }

    fn meets(&self, other: &Self) -> bool {
        self.pinned == other.pinned && self.start < other.end && other.start < self.end
    }
}

/// Work that was put into a stream.
#[derive(Debug)]
struct Use {
    range: Range,
    stream: usize,
    end: Event,
    /// Earlier work on the same memory, which must have ended before this does.
    after: Vec<u64>,
}

/// What was done with memory, as the test sees it.
#[derive(Default)]
struct Ledger {
    next: u64,
    uses: BTreeMap<u64, Use>,
}

impl Ledger {
    /// Notes work that is the last in the stream now.
    fn note(&mut self, range: Range, stream: usize, in_order: bool, streams: &[Stream]) {
        let end = Event::new(streams[stream].device()).unwrap();
        streams[stream].record(&end).unwrap();
        let met = self.uses.iter().filter(|(_, one)| one.range.meets(&range));
        let after = met.filter(|_| in_order).map(|(number, _)| *number);
        let after = after.collect();
        let this = Use {
            range,
            stream,
            end,
            after,
        };
        self.uses.insert(self.next, this);
        self.next += 1;
    }

    /// Work on the memory that has not ended, but for that of a stream.
    fn unfinished(&self, range: Range, but: Option<usize>) -> Vec<&Use> {
        let uses = self.uses.values();
        uses.filter(|one| one.range.meets(&range) && Some(one.stream) != but)
            .filter(|one| !one.end.is_done().unwrap())
            .collect()
    }

    fn assert_free(&self, range: Range, but: Option<usize>, what: &str) {
        let unfinished = self.unfinished(range, but);
        assert!(unfinished.is_empty(), "{what}: {range:?} {unfinished:?}");
    }

    /// Looks at what has ended: nothing before what it follows, and nothing without its memory.
    fn look(&mut self, driver: &Driver) {
        let numbers: Vec<u64> = self.uses.keys().copied().collect();
        for number in numbers {
            let one = &self.uses[&number];
            let is_there = is_allocated(driver, one.range.start);
            if !one.end.is_done().unwrap() {
                assert!(is_there, "given back in use: {one:?}");
                continue;
            }
            for before in one.after.iter().filter_map(|before| self.uses.get(before)) {
                assert!(before.end.is_done().unwrap(), "{one:?} passed {before:?}");
            }
            self.uses.remove(&number);
        }
    }
}

fn is_allocated(driver: &Driver, address: u64) -> bool {
    let mut start = 0u64;
    let attribute = CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR;
    let out = std::ptr::from_mut(&mut start).cast();
    // SAFETY: this attribute is an address, and the output has room for it.
    let answer = unsafe { driver.api().cuPointerGetAttribute(out, attribute, address) };
    answer.unwrap() == CUresult::CUDA_SUCCESS
}

struct World {
    simulator: Sim,
    device: CudaDevice,
    kernel: Kernel,
    streams: Vec<Stream>,
    captured: Stream,
    pools: Vec<GpuMemoryPool>,
    held: Vec<GpuBuffer>,
    pinned: PinnedBuffer<u8>,
    pinned_at: Range,
    ledger: Ledger,
    /// Whether a call failed before: then what became of some memory may be unknown.
    after_fault: bool,
}

fn pinned(device: &CudaDevice) -> (PinnedBuffer<u8>, Range) {
    let buffer = PinnedBuffer::<u8>::new(device, PINNED).unwrap();
    let start = buffer.as_slice().unwrap().as_ptr().addr() as u64;
    let range = Range {
        pinned: true,
        start,
        end: start + PINNED as u64,
    };
    (buffer, range)
}

impl World {
    fn new(simulator: Sim) -> Self {
        simulator.register_kernel_cost(kernels::BURN, |launch| {
            BlockCost::idle(Duration::from_micros(launch.arg_u32(1).unwrap().into()))
        });
        let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
        let context = GreenContext::primary(&device, ContextPolicy::default()).unwrap();
        let stream = || context.create_stream().unwrap();
        let module = Module::load_ptx(&device, kernels::PTX).unwrap();
        let (pinned, pinned_at) = pinned(&device);
        Self {
            kernel: module.kernel(kernels::BURN).unwrap(),
            streams: (0..3).map(|_| stream()).collect(),
            captured: stream(),
            pools: vec![GpuMemoryPool::on(&device, LIMIT).unwrap()],
            held: Vec::new(),
            pinned,
            pinned_at,
            ledger: Ledger::default(),
            after_fault: false,
            simulator,
            device,
        }
    }

    fn index(&self, held: &Index) -> Option<usize> {
        (!self.held.is_empty()).then(|| held.index(self.held.len()))
    }

    /// Runs a call of the library with the step's fault, on its thread, beside its capture.
    fn call<T: Send>(
        simulator: &Sim,
        captured: &Stream,
        step: &Step,
        after_fault: bool,
        call: impl FnOnce() -> Result<T> + Send,
    ) -> Called<T> {
        let run = || {
            let on_thread = || {
                let inject = |fault: &Fault| {
                    for name in fault.calls {
                        let injection = Injection::fail(name, fault.code).unwrap();
                        simulator.inject(if fault.onwards {
                            injection.onwards(fault.nth)
                        } else {
                            injection.at(fault.nth)
                        });
                    }
                };
                step.fault.iter().for_each(inject);
                simulator.start_trace();
                let answer = call();
                let trace = simulator.take_trace();
                simulator.clear_injections();
                let work = [
                    "cuMemsetD8Async",
                    "cuMemcpyHtoDAsync_v2",
                    "cuMemcpyDtoHAsync_v2",
                ];
                Called {
                    began: trace.iter().any(|call| work.contains(&call.entry_point)),
                    answer,
                }
            };
            if step.elsewhere {
                std::thread::scope(|scope| scope.spawn(on_thread).join().unwrap())
            } else {
                on_thread()
            }
        };
        let Some(mode) = step.beside else {
            return run().checked(step, after_fault);
        };
        let mut called = None;
        let capture = captured.capture(mode, |_| {
            called = Some(run());
            Ok(())
        });
        // Where the thread's mode cannot be exchanged, or the driver refuses, the capture may be spoilt.
        assert!(capture.is_ok() || step.fault.is_some(), "{capture:?}");
        called.unwrap().checked(step, after_fault)
    }

    fn step(&mut self, step: &Step) {
        let (simulator, captured) = (self.simulator.clone(), &self.captured);
        let after_fault = self.after_fault;
        self.after_fault |= step.fault.is_some();
        macro_rules! call {
            ($call:expr) => {
                Self::call(&simulator, captured, step, after_fault, || $call)
            };
        }
        match &step.what {
            What::Allocate { pool, size, stream } => {
                let Some(pool) = (!self.pools.is_empty()).then(|| pool.get(&self.pools)) else {
                    return;
                };
                let on = stream.map(|stream| &self.streams[stream]);
                let called = call!(match on {
                    Some(stream) => pool.allocate_on(stream, *size),
                    None => pool.allocate(*size),
                });
                if let Ok(buffer) = called.answer {
                    let range = Range::of(&buffer);
                    self.ledger.assert_free(range, *stream, "handed out in use");
                    for other in &self.held {
                        assert!(!Range::of(other).meets(&range), "two overlap");
                    }
                    self.held.push(buffer);
                }
            }
            What::Fill { held, stream } => {
                let Some(index) = self.index(held) else {
                    return;
                };
                let (buffer, on) = (&mut self.held[index], &self.streams[*stream]);
                let called = call!(buffer.fill_on(1, on));
                if called.began {
                    let range = Range::of(buffer);
                    let in_order = called.answer.is_ok();
                    self.ledger.note(range, *stream, in_order, &self.streams);
                }
            }
            What::CopyOn {
                held,
                stream,
                to_pinned,
            } => {
                let Some(index) = self.index(held) else {
                    return;
                };
                let (buffer, on) = (&mut self.held[index], &self.streams[*stream]);
                let pinned = &mut self.pinned;
                let called = call!(if *to_pinned {
                    buffer.copy_to_pinned(pinned, on)
                } else {
                    buffer.copy_from_pinned(pinned, on)
                });
                if called.began {
                    let in_order = called.answer.is_ok();
                    for range in [Range::of(buffer), self.pinned_at] {
                        self.ledger.note(range, *stream, in_order, &self.streams);
                    }
                }
            }
            What::Copy { held, way } => {
                let Some(index) = self.index(held) else {
                    return;
                };
                let buffer = &self.held[index];
                let called = call!(match way {
                    0 => buffer.copy_to(&mut [0; 100]),
                    1 => buffer.copy_from(&[2; 100]),
                    _ => buffer.fill(3),
                });
                if called.answer.is_ok() {
                    let range = Range::of(buffer);
                    self.ledger.assert_free(range, None, "copied in use");
                }
            }
            What::Launch {
                held,
                stream,
                micros,
                free,
            } => {
                let Some(index) = self.index(held) else {
                    return;
                };
                let (buffer, on) = (&self.held[index], &self.streams[*stream]);
                let range = Range::of(buffer);
                // The client's own kernels are ordered by the client.
                for other in self.ledger.unfinished(range, Some(*stream)) {
                    on.wait(&other.end).unwrap();
                }
                let shape = LaunchConfig::linear(1, 32);
                // SAFETY: a simulated kernel without a body touches nothing.
                unsafe { on.launch(&self.kernel, &shape, &[&range.start, micros]) }.unwrap();
                self.ledger.note(range, *stream, true, &self.streams);
                if *free {
                    let buffer = self.held.swap_remove(index);
                    let _ = call!(buffer.free_on(on).map_err(Error::from));
                } else {
                    let _ = call!(buffer.fence_on(on));
                }
            }
            What::Drop { held } => {
                let Some(index) = self.index(held) else {
                    return;
                };
                let buffer = self.held.swap_remove(index);
                let _ = call!({
                    drop(buffer);
                    Ok(())
                });
            }
            What::LookAtPinned => {
                let pinned = &self.pinned;
                let called = call!(pinned.as_slice().map(|_| ()));
                if called.answer.is_ok() {
                    let range = self.pinned_at;
                    self.ledger.assert_free(range, None, "looked at in use");
                }
            }
            What::DropPinned => {
                let (next, at) = pinned(&self.device);
                let old = std::mem::replace(&mut self.pinned, next);
                self.pinned_at = at;
                let _ = call!({
                    drop(old);
                    Ok(())
                });
            }
            What::Trim { pool } => {
                if let Some(pool) = (!self.pools.is_empty()).then(|| pool.get(&self.pools)) {
                    let _ = call!(pool.trim());
                }
            }
            What::Child {
                pool,
                limit,
                reserve,
            } => {
                let Some(pool) = (!self.pools.is_empty()).then(|| pool.get(&self.pools)) else {
                    return;
                };
                let called = call!(if *reserve {
                    pool.reserve(*limit)
                } else {
                    pool.child(*limit)
                });
                self.pools.extend(called.answer);
            }
            What::DropPool { pool } => {
                // The first stays, so that there is one.
                if self.pools.len() > 1 {
                    let index = 1 + pool.index(self.pools.len() - 1);
                    let pool = self.pools.swap_remove(index);
                    let _ = call!({
                        drop(pool);
                        Ok(())
                    });
                }
            }
            What::Pass { micros } => simulator.advance(Duration::from_micros(*micros)),
        }
        self.ledger.look(self.device.driver());
    }
}

/// What came of a call.
struct Called<T> {
    answer: Result<T>,
    /// Whether the driver was asked to put a copy or a fill into a stream.
    began: bool,
}

impl<T> Called<T> {
    /// Nothing but a limit refuses anything where no call fails, and what an earlier failure left.
    fn checked(self, step: &Step, after_fault: bool) -> Self {
        match (&self.answer, &step.fault) {
            (Ok(_), _) | (_, Some(_)) | (Err(Error::OutOfMemory { .. }), _) => {}
            (Err(Error::EndUnknown), None) if after_fault => {}
            (Err(error), None) => panic!("{error:?}"),
        }
        self
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, max_shrink_iters: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_handed_out_or_given_back_in_use(steps in steps()) {
        /// What nobody can know the end of is kept for good, and its driver with it: so those cases share one.
        static WITH_FAULTS: OnceLock<Sim> = OnceLock::new();
        let _alone = alone();
        let new = || Sim::new("h200@13.0").unwrap();
        let has_faults = steps.iter().any(|step| step.fault.is_some());
        let simulator = if has_faults { WITH_FAULTS.get_or_init(new).clone() } else { new() };
        let mut world = World::new(simulator.clone());
        for step in &steps {
            world.step(step);
        }
        drop(world);
        if !has_faults {
            simulator.assert_no_leaks();
        }
    }
}
