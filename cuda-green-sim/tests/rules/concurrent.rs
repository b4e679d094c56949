//! Kernels that run beside the client: they wait for it, for each other, and everything else waits for them.

use std::{
    ffi::{CStr, c_void},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use crate::client::*;
use cuda_green_sim::{BlockCost, FaultKind, Launch, Sim};
use cuda_green_sys::*;

const NOT_READY: CUresult = CUresult::CUDA_ERROR_NOT_READY;

/// Kernels of one 64-bit parameter.
const KERNELS: &CStr = c".version 7.0\n.target sm_70\n.address_size 64\n\
    .visible .entry waits(.param .u64 words) { ret; }\n\
    .visible .entry other(.param .u64 words) { ret; }\n\
    .visible .entry plain(.param .u64 words) { ret; }\n";

/// A client with a module of the kernels above, and pinned words that host and kernels share.
struct Bench {
    client: Client,
    module: CUmodule,
    words: u64,
}

/// The driver as another thread calls it.
struct Caller<'a> {
    api: &'a Api,
}

/// The words: the one that kernels wait for, their answer, and some more.
const GO: u64 = 0;
const ANSWER: u64 = 4;
const MORE: u64 = 8;
const WORDS: usize = 16;

impl Bench {
    fn new() -> Self {
        let client = Client::new("h200@13.0");
        let (mut module, mut words) = (ptr::null_mut(), ptr::null_mut());
        ok!(
            client,
            cuModuleLoadData(&mut module, KERNELS.as_ptr().cast())
        );
        ok!(client, cuMemHostAlloc(&mut words, WORDS * 4, 0));
        Self {
            client,
            module,
            words: words.expose_provenance() as u64,
        }
    }

    /// Registers the kernel `waits`: it waits for the word `GO`, runs `then`, and answers with the word plus 1.
    fn waits(&self, then: impl Fn(&Launch<'_>) + Send + Sync + 'static) {
        let kernel = move |launch: &Launch<'_>| {
            let words = launch.arg_u64(0).unwrap();
            if let Some(go) = wait_for(launch, words + GO) {
                then(launch);
                let _ = launch.store_u32(words + ANSWER, go + 1);
            }
        };
        self.sim().register_concurrent_kernel("waits", kernel);
    }

    fn sim(&self) -> &Sim {
        &self.client.sim
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        let at = ptr::with_exposed_provenance_mut((self.words + offset) as usize);
        unsafe { AtomicU32::from_ptr(at) }
    }

    fn go(&self) {
        self.word(GO).store(1, SeqCst);
    }

    fn stream(&self) -> CUstream {
        let mut stream = ptr::null_mut();
        ok!(self.client, cuStreamCreateWithPriority(&mut stream, 1, 0));
        stream
    }

    fn function(&self, name: &CStr) -> CUfunction {
        let mut function = ptr::null_mut();
        ok!(
            self.client,
            cuModuleGetFunction(&mut function, self.module, name.as_ptr())
        );
        function
    }

    fn launch(&self, name: &CStr, stream: CUstream, mut argument: u64) {
        let mut args: [*mut c_void; 1] = [(&raw mut argument).cast()];
        let function = self.function(name);
        assert_eq!(self.client.launch(function, 1, stream, &mut args), OK);
    }

    fn query(&self, stream: CUstream) -> CUresult {
        call!(self.client, cuStreamQuery(stream))
    }

    fn synchronize(&self, stream: CUstream) -> CUresult {
        call!(self.client, cuStreamSynchronize(stream))
    }

    /// Runs `call` on another thread; `meanwhile` begins no sooner than the call does.
    fn beside<T: Send>(
        &self,
        call: impl FnOnce(&Caller<'_>) -> T + Send,
        meanwhile: impl FnOnce(),
    ) -> T {
        let calls = self.sim().calls();
        let api = &self.client.api;
        thread::scope(|scope| {
            let thread = scope.spawn(move || call(&Caller { api }));
            until(|| self.sim().calls() > calls);
            // Whether the other thread waits already cannot be seen, but it has its chance.
            (0..100).for_each(|_| thread::yield_now());
            meanwhile();
            thread.join().unwrap()
        })
    }

    fn finish(self, streams: &[CUstream]) {
        for stream in streams {
            ok!(self.client, cuStreamDestroy_v2(*stream));
        }
        let words = ptr::with_exposed_provenance_mut(self.words as usize);
        ok!(self.client, cuMemFreeHost(words));
        ok!(self.client, cuModuleUnload(self.module));
        self.client.finish();
    }
}

/// Waits for a word other than 0; `None` if the kernel is stopped.
fn wait_for(launch: &Launch<'_>, address: u64) -> Option<u32> {
    loop {
        match launch.load_u32(address) {
            Ok(0) => thread::yield_now(),
            Ok(word) => return Some(word),
            Err(fault) => {
                assert_eq!(fault.kind, FaultKind::Stopped);
                return None;
            }
        }
    }
}

fn until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

#[test]
fn a_kernel_waits_for_the_host_and_answers() {
    let bench = Bench::new();
    bench.waits(|_| {});
    let stream = bench.stream();
    bench.launch(c"waits", stream, bench.words);
    let now = bench.sim().now();
    assert_eq!(bench.query(stream), NOT_READY);
    // Virtual time has nothing to do with it.
    assert_eq!(bench.sim().now(), now);
    bench.word(GO).store(41, SeqCst);
    until(|| bench.word(ANSWER).load(SeqCst) == 42);
    assert_eq!(bench.synchronize(stream), OK);
    assert_eq!(bench.query(stream), OK);
    bench.finish(&[stream]);
}

#[test]
fn two_kernels_in_two_streams_play_ping_pong() {
    const ROUNDS: u32 = 200;
    /// Waits for each number from `first` on in steps of 2, and stores the next.
    fn play(launch: &Launch<'_>, first: u32) {
        let ball = launch.arg_u64(0).unwrap();
        for turn in (first..first + 2 * ROUNDS).step_by(2) {
            while launch.load_u32(ball).unwrap() != turn {
                thread::yield_now();
            }
            launch.store_u32(ball, turn + 1).unwrap();
        }
    }
    let bench = Bench::new();
    bench
        .sim()
        .register_concurrent_kernel("waits", |l| play(l, 0));
    bench
        .sim()
        .register_concurrent_kernel("other", |l| play(l, 1));
    let streams = [bench.stream(), bench.stream()];
    let device = bench.client.alloc(4).unwrap();
    for ball in [bench.words, device] {
        ok!(bench.client, cuMemsetD32Async(ball, 0, 1, ptr::null_mut()));
        ok!(bench.client, cuCtxSynchronize());
        bench.launch(c"waits", streams[0], ball);
        bench.launch(c"other", streams[1], ball);
        // A wait for the whole device, too.
        ok!(bench.client, cuCtxSynchronize());
        assert_eq!(streams.map(|stream| bench.query(stream)), [OK, OK]);
        let mut end = 0_u32;
        ok!(
            bench.client,
            cuMemcpyDtoH_v2((&raw mut end).cast(), ball, 4)
        );
        assert_eq!(end, 2 * ROUNDS);
    }
    ok!(bench.client, cuMemFree_v2(device));
    bench.finish(&streams);
}

#[test]
fn other_threads_use_the_driver_while_one_waits() {
    let bench = Bench::new();
    bench.waits(|_| {});
    bench.sim().register_kernel("plain", |launch| {
        let _ = launch.write(launch.arg_u64(0).unwrap(), &7_u32.to_ne_bytes());
    });
    let (stream, other) = (bench.stream(), bench.stream());
    let handle = stream.expose_provenance();
    let device = bench.client.alloc(4).unwrap();
    bench.launch(c"waits", stream, bench.words);
    let waited = bench.beside(
        |caller| {
            call!(
                caller,
                cuStreamSynchronize(ptr::with_exposed_provenance_mut(handle))
            )
        },
        || {
            for round in 1..=100_u32 {
                bench.launch(c"plain", other, device);
                assert_eq!(
                    (bench.synchronize(other), bench.query(stream)),
                    (OK, NOT_READY)
                );
                let mut seen = 0_u32;
                let (from, to) = ((&raw const round).cast(), (&raw mut seen).cast());
                ok!(bench.client, cuMemcpyDtoH_v2(to, device, 4));
                assert_eq!(seen, 7);
                ok!(bench.client, cuMemcpyHtoDAsync_v2(device, from, 4, other));
                ok!(bench.client, cuMemcpyDtoHAsync_v2(to, device, 4, other));
                assert_eq!(seen, round);
            }
            bench.go();
        },
    );
    assert_eq!((waited, bench.query(stream)), (OK, OK));
    ok!(bench.client, cuMemFree_v2(device));
    bench.finish(&[stream, other]);
}

#[test]
fn an_event_behind_it_is_done_after_it() {
    let bench = Bench::new();
    let device = bench.client.alloc(4).unwrap();
    bench.waits(move |launch| launch.store_u32(device, 5).unwrap());
    // Reports what the first kernel has left.
    bench.sim().register_kernel("plain", move |launch| {
        let found = launch.load_u32(device).unwrap();
        launch
            .store_u32(launch.arg_u64(0).unwrap(), found + 1)
            .unwrap();
    });
    let (stream, other) = (bench.stream(), bench.stream());
    let mut event = ptr::null_mut();
    ok!(bench.client, cuEventCreate(&mut event, 0));
    bench.launch(c"waits", stream, bench.words);
    ok!(bench.client, cuEventRecord(event, stream));
    ok!(bench.client, cuStreamWaitEvent(other, event, 0));
    bench.launch(c"plain", other, bench.words + MORE);
    assert_eq!(call!(bench.client, cuEventQuery(event)), NOT_READY);
    assert_eq!([bench.query(stream), bench.query(other)], [NOT_READY; 2]);
    assert_eq!(bench.word(MORE).load(SeqCst), 0);
    bench.go();
    ok!(bench.client, cuEventSynchronize(event));
    assert_eq!(call!(bench.client, cuEventQuery(event)), OK);
    assert_eq!(bench.word(ANSWER).load(SeqCst), 2);
    assert_eq!(bench.synchronize(other), OK);
    assert_eq!(bench.word(MORE).load(SeqCst), 6);
    ok!(bench.client, cuEventDestroy_v2(event));
    ok!(bench.client, cuMemFree_v2(device));
    bench.finish(&[stream, other]);
}

unsafe extern "C" fn note(word: *mut c_void) {
    unsafe { AtomicU32::from_ptr(word.cast()) }.store(9, SeqCst);
}

#[test]
fn everything_behind_it_runs_after_it_and_in_order() {
    let bench = Bench::new();
    let device = bench.client.alloc(16).unwrap();
    bench.waits(move |launch| launch.write(device, &[1; 16]).unwrap());
    bench.sim().register_kernel("plain", move |launch| {
        let before = launch.atomic_add_u32(device + 4, 1).unwrap();
        launch
            .store_u32(launch.arg_u64(0).unwrap(), before)
            .unwrap();
    });
    let stream = bench.stream();
    let mut pooled = 0;
    ok!(bench.client, cuMemAllocAsync(&mut pooled, 64, stream));
    bench.launch(c"waits", stream, bench.words);
    let pinned =
        |offset: u64| ptr::with_exposed_provenance_mut::<c_void>((bench.words + offset) as usize);
    ok!(bench.client, cuMemsetD32Async(device + 4, 20, 1, stream));
    // Pageable memory may be used again at once, pinned memory only after the copy.
    let mut pageable = vec![30_u32];
    ok!(
        bench.client,
        cuMemcpyHtoDAsync_v2(device + 8, pageable.as_ptr().cast(), 4, stream)
    );
    pageable[0] = 0;
    drop(pageable);
    bench.word(MORE).store(0, SeqCst);
    ok!(
        bench.client,
        cuMemcpyHtoDAsync_v2(device + 12, pinned(MORE), 4, stream)
    );
    bench.word(MORE).store(40, SeqCst);
    bench.launch(c"plain", stream, bench.words + MORE + 4);
    ok!(
        bench.client,
        cuMemcpyDtoHAsync_v2(pinned(MORE + 8), device, 16, stream)
    );
    ok!(
        bench.client,
        cuLaunchHostFunc(stream, Some(note), pinned(MORE + 24))
    );
    ok!(bench.client, cuMemFreeAsync(pooled, stream));
    let more = || [4, 8, 12, 16, 20, 24].map(|at| bench.word(MORE + at).load(SeqCst));
    assert_eq!((more(), bench.query(stream)), ([0; 6], NOT_READY));
    assert_eq!(bench.sim().live_objects().device_allocations, 2);
    bench.go();
    assert_eq!(bench.synchronize(stream), OK);
    let ones = u32::from_ne_bytes([1; 4]);
    assert_eq!(more(), [20, ones, 21, 30, 40, 9]);
    assert_eq!(bench.sim().live_objects().device_allocations, 1);
    ok!(bench.client, cuMemFree_v2(device));
    bench.finish(&[stream]);
}

#[test]
fn a_copy_to_pageable_memory_behind_it_is_over_at_its_return() {
    let bench = Bench::new();
    let device = bench.client.alloc(4).unwrap();
    bench.waits(move |launch| launch.store_u32(device, 5).unwrap());
    let stream = bench.stream();
    let handle = stream.expose_provenance();
    bench.launch(c"waits", stream, bench.words);
    let copied = bench.beside(
        |caller| {
            let mut seen = 0_u32;
            let stream = ptr::with_exposed_provenance_mut(handle);
            ok!(
                caller,
                cuMemcpyDtoHAsync_v2((&raw mut seen).cast(), device, 4, stream)
            );
            seen
        },
        || bench.go(),
    );
    assert_eq!(copied, 5);
    ok!(bench.client, cuMemFree_v2(device));
    bench.finish(&[stream]);
}

#[test]
fn memory_is_not_freed_under_it() {
    let bench = Bench::new();
    let device = bench.client.alloc(4).unwrap();
    bench.waits(move |launch| launch.store_u32(device, 5).unwrap());
    let stream = bench.stream();
    bench.launch(c"waits", stream, bench.words);
    let primary = bench.client.primary.expose_provenance();
    let freed = bench.beside(
        |caller| {
            ok!(
                caller,
                cuCtxSetCurrent(ptr::with_exposed_provenance_mut(primary))
            );
            call!(caller, cuMemFree_v2(device))
        },
        || bench.go(),
    );
    assert_eq!((freed, bench.synchronize(stream)), (OK, OK));
    assert_eq!(bench.word(ANSWER).load(SeqCst), 2);
    bench.finish(&[stream]);
}

#[test]
fn its_stream_and_its_context_may_end_under_it() {
    let bench = Bench::new();
    bench.waits(|_| {});
    let whole = bench.client.device_sms();
    let split = bench.client.split(&whole, 1, 0, 16).unwrap();
    let green = bench.client.green(&[split.groups[0]]).unwrap();
    let stream = bench.client.stream(green);
    bench.launch(c"waits", stream, bench.words);
    ok!(bench.client, cuStreamDestroy_v2(stream));
    assert_eq!(bench.client.destroy(green), OK);
    assert_eq!(bench.word(ANSWER).load(SeqCst), 0);
    bench.go();
    ok!(bench.client, cuCtxSynchronize());
    assert_eq!(bench.word(ANSWER).load(SeqCst), 2);
    bench.finish(&[]);
}

#[test]
fn a_fault_of_one_ends_them_all_and_every_wait() {
    let bench = Bench::new();
    bench.waits(|launch| {
        let fault = launch.load_u32(1 << 52).unwrap_err();
        assert_eq!(fault.kind, FaultKind::NotAllocated);
    });
    let (stopped, was_stopped) = mpsc::channel();
    bench
        .sim()
        .register_concurrent_kernel("other", move |launch| {
            let words = launch.arg_u64(0).unwrap();
            launch.store_u32(words + MORE + 4, 1).unwrap();
            let got = wait_for(launch, words + MORE);
            stopped.send((got, launch.is_stopped())).unwrap();
        });
    let (stream, other) = (bench.stream(), bench.stream());
    bench.launch(c"other", other, bench.words);
    until(|| bench.word(MORE + 4).load(SeqCst) == 1);
    bench.launch(c"waits", stream, bench.words);
    let handle = other.expose_provenance();
    let waited = bench.beside(
        |caller| {
            call!(
                caller,
                cuStreamSynchronize(ptr::with_exposed_provenance_mut(handle))
            )
        },
        || bench.go(),
    );
    let fault = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    assert_eq!((waited, bench.synchronize(stream)), (fault, fault));
    assert_eq!(was_stopped.recv().unwrap(), (None, true));
}

#[test]
fn a_panic_of_one_is_a_failed_launch() {
    let bench = Bench::new();
    bench.waits(|_| std::panic::resume_unwind(Box::new(())));
    let stream = bench.stream();
    bench.launch(c"waits", stream, bench.words);
    bench.go();
    let code = bench.synchronize(stream);
    assert_eq!(code, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

#[test]
fn updates_of_the_hosts_memory_are_found_out() {
    type Update = fn(&Launch<'_>, u64) -> Option<FaultKind>;
    let updates: [Update; 9] = [
        |l, at| l.atomic_add_u32(at, 0).err().map(|fault| fault.kind),
        |l, at| l.atomic_add_u64(at, 0).err().map(|fault| fault.kind),
        |l, at| l.atomic_max_u64(at, 0).err().map(|fault| fault.kind),
        |l, at| l.atomic_or_u32(at, 0).err().map(|fault| fault.kind),
        |l, at| l.atomic_and_u32(at, 0).err().map(|fault| fault.kind),
        |l, at| l.atomic_cas_u32(at, 0, 0).err().map(|fault| fault.kind),
        |l, at| l.atomic_cas_u64(at, 0, 0).err().map(|fault| fault.kind),
        |l, at| l.atomic_exchange_u32(at, 0).err().map(|fault| fault.kind),
        |l, at| l.atomic_exchange_u64(at, 0).err().map(|fault| fault.kind),
    ];
    for (index, update) in updates.into_iter().enumerate() {
        let bench = Bench::new();
        let kernel = move |launch: &Launch<'_>| {
            let at = launch.arg_u64(0).unwrap();
            assert_eq!(update(launch, at), Some(FaultKind::HostUpdate));
        };
        if index % 2 == 0 {
            bench.sim().register_concurrent_kernel("plain", kernel);
        } else {
            bench.sim().register_kernel("plain", kernel);
        }
        let stream = bench.stream();
        bench.launch(c"plain", stream, bench.words);
        let code = bench.synchronize(stream);
        assert_eq!(code, CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE, "{index}");
    }
}

#[test]
fn numbers_that_are_not_aligned_are_faults() {
    let bench = Bench::new();
    bench.sim().register_kernel("plain", |launch| {
        let at = launch.arg_u64(0).unwrap();
        let kinds = [
            launch.load_u32(at + 2).map(drop),
            launch.store_u64(at + 4, 0),
            launch.atomic_add_u32(at + 1, 0).map(drop),
        ];
        assert_eq!(
            kinds.map(|kind| kind.unwrap_err().kind),
            [FaultKind::Misaligned; 3]
        );
    });
    let device = bench.client.alloc(16).unwrap();
    bench.launch(c"plain", ptr::null_mut(), device);
    let code = bench.synchronize(ptr::null_mut());
    assert_eq!(code, CUresult::CUDA_ERROR_MISALIGNED_ADDRESS);
}

#[test]
fn numbers_in_device_memory_are_updated() {
    let bench = Bench::new();
    bench.sim().register_kernel("plain", |l| {
        let at = l.arg_u64(0).unwrap();
        l.store_u64(at, u64::MAX).unwrap();
        assert_eq!(l.atomic_add_u64(at, 4), Ok(u64::MAX));
        assert_eq!(l.atomic_max_u64(at, 2), Ok(3));
        assert_eq!(l.atomic_max_u64(at, 6), Ok(3));
        assert_eq!(l.atomic_cas_u64(at, 5, 7), Ok(6));
        assert_eq!(l.atomic_cas_u64(at, 6, 8), Ok(6));
        assert_eq!(l.atomic_exchange_u64(at, 1 << 40), Ok(8));
        assert_eq!(l.load_u64(at), Ok(1 << 40));
        l.store_u32(at, 0b1010).unwrap();
        assert_eq!(l.atomic_or_u32(at, 0b0110), Ok(0b1010));
        assert_eq!(l.atomic_and_u32(at, 0b0111), Ok(0b1110));
        assert_eq!(l.atomic_cas_u32(at, 0, 1), Ok(0b0110));
        assert_eq!(l.atomic_cas_u32(at, 0b0110, 1), Ok(0b0110));
        assert_eq!(l.atomic_exchange_u32(at, u32::MAX), Ok(1));
        assert_eq!(l.atomic_add_u32(at, 2), Ok(u32::MAX));
        l.fence();
        assert_eq!(l.load_u32(at), Ok(1));
    });
    let device = bench.client.alloc(8).unwrap();
    bench.launch(c"plain", ptr::null_mut(), device);
    assert_eq!(bench.synchronize(ptr::null_mut()), OK);
    ok!(bench.client, cuMemFree_v2(device));
    bench.finish(&[]);
}

#[test]
fn a_kernel_may_have_several_threads() {
    let bench = Bench::new();
    let device = bench.client.alloc(8).unwrap();
    bench.waits(move |launch| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..500).for_each(|_| {
                        launch.atomic_add_u64(device, 1).unwrap();
                    })
                });
            }
        });
    });
    let stream = bench.stream();
    bench.go();
    bench.launch(c"waits", stream, bench.words);
    let mut sum = 0_u64;
    ok!(
        bench.client,
        cuMemcpyDtoHAsync_v2((&raw mut sum).cast(), device, 8, stream)
    );
    assert_eq!(sum, 2000);
    ok!(bench.client, cuMemFree_v2(device));
    bench.finish(&[stream]);
}

#[test]
fn a_graph_has_such_kernels_too() {
    let bench = Bench::new();
    let device = bench.client.alloc(4).unwrap();
    bench.waits(move |launch| {
        launch.atomic_add_u32(device, 1).unwrap();
    });
    bench.sim().register_kernel("plain", move |launch| {
        let runs = launch.load_u32(device).unwrap();
        launch.store_u32(launch.arg_u64(0).unwrap(), runs).unwrap();
    });
    let stream = bench.stream();
    let (mut graph, mut exec) = (ptr::null_mut(), ptr::null_mut());
    let relaxed = CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
    ok!(bench.client, cuStreamBeginCapture_v2(stream, relaxed));
    bench.launch(c"waits", stream, bench.words);
    bench.launch(c"plain", stream, bench.words + MORE);
    ok!(bench.client, cuStreamEndCapture(stream, &mut graph));
    ok!(
        bench.client,
        cuGraphInstantiateWithFlags(&mut exec, graph, 0)
    );
    ok!(bench.client, cuGraphLaunch(exec, stream));
    ok!(bench.client, cuGraphLaunch(exec, stream));
    assert_eq!(bench.query(stream), NOT_READY);
    assert_eq!(bench.word(MORE).load(SeqCst), 0);
    bench.go();
    assert_eq!(bench.synchronize(stream), OK);
    assert_eq!(bench.word(MORE).load(SeqCst), 2);
    ok!(bench.client, cuGraphExecDestroy(exec));
    ok!(bench.client, cuGraphDestroy(graph));
    ok!(bench.client, cuMemFree_v2(device));
    bench.finish(&[stream]);
}

#[test]
fn its_cost_counts_from_its_end() {
    let cost = Duration::from_micros(100);
    let bench = Bench::new();
    bench.waits(|_| {});
    bench
        .sim()
        .register_kernel_cost("waits", move |_| BlockCost::busy(cost));
    let stream = bench.stream();
    bench.launch(c"waits", stream, bench.words);
    let launched = bench.sim().now();
    bench.sim().advance(cost * 10);
    assert_eq!(bench.query(stream), NOT_READY);
    bench.go();
    assert_eq!(bench.synchronize(stream), OK);
    assert_eq!(
        bench.sim().now(),
        launched + cost * 11 + Duration::from_micros(5)
    );
    bench.finish(&[stream]);
}

impl Bench {
    /// Launches a kernel that waits until it is stopped, and returns its stream and where it tells how it ended. It has
    /// begun when this returns: one that is stopped before never does.
    fn until_stopped(&self) -> (CUstream, mpsc::Receiver<Option<u32>>) {
        let (ended, end) = mpsc::channel();
        self.sim()
            .register_concurrent_kernel("waits", move |launch| {
                let words = launch.arg_u64(0).unwrap();
                launch.store_u32(words + ANSWER, 1).unwrap();
                ended.send(wait_for(launch, words + GO)).unwrap();
            });
        let stream = self.stream();
        self.launch(c"waits", stream, self.words);
        until(|| self.word(ANSWER).load(SeqCst) == 1);
        (stream, end)
    }
}

#[test]
fn the_end_of_the_driver_stops_it_and_the_waits_for_it() {
    let bench = Bench::new();
    let (stream, end) = bench.until_stopped();
    let (api, handle) = (bench.client.api, stream.expose_provenance());
    let calls = bench.client.sim.calls();
    let waiter = thread::spawn(move || {
        let stream = ptr::with_exposed_provenance_mut(handle);
        unsafe { api.cuStreamSynchronize(stream).unwrap() }
    });
    until(|| bench.client.sim.calls() > calls);
    drop(bench.client.sim);
    assert_eq!(end.recv().unwrap(), None);
    // Whether the wait or the kernel ended first.
    let waited = waiter.join().unwrap();
    assert!(
        [OK, CUresult::CUDA_ERROR_DEINITIALIZED].contains(&waited),
        "{waited}"
    );
}

#[test]
fn a_driver_may_be_dropped_under_a_kernel_that_ends_by_itself() {
    let bench = Bench::new();
    let (go, dropped) = (Arc::new(AtomicBool::new(false)), Arc::new(()));
    let (ended, end) = mpsc::channel();
    let (has_begun, begun) = mpsc::channel();
    let (may_go, owned) = (Arc::clone(&go), Arc::clone(&dropped));
    bench
        .sim()
        .register_concurrent_kernel("waits", move |launch| {
            let _owned = &owned;
            has_begun.send(()).unwrap();
            until(|| may_go.load(SeqCst));
            ended
                .send(launch.load_u32(launch.arg_u64(0).unwrap()))
                .unwrap();
        });
    bench.launch(c"waits", bench.stream(), bench.words);
    begun.recv().unwrap();
    drop(bench.client.sim);
    assert_eq!(Arc::strong_count(&dropped), 2);
    go.store(true, SeqCst);
    assert_eq!(end.recv().unwrap().unwrap_err().kind, FaultKind::Stopped);
    // The driver is gone with its last kernel.
    until(|| Arc::strong_count(&dropped) == 1);
}

#[test]
fn the_end_of_its_primary_context_stops_it() {
    let bench = Bench::new();
    let (_, end) = bench.until_stopped();
    ok!(bench.client, cuDevicePrimaryCtxRelease_v2(0));
    assert_eq!(end.recv().unwrap(), None);
    // The driver goes on: that is no fault.
    let mut primary = ptr::null_mut();
    ok!(bench.client, cuDevicePrimaryCtxRetain(&mut primary, 0));
    ok!(bench.client, cuCtxSynchronize());
}

#[test]
fn the_loss_of_its_device_stops_it() {
    let bench = Bench::new();
    let (stream, end) = bench.until_stopped();
    bench
        .sim()
        .inject(cuda_green_sim::Injection::lose_device(0).at(1));
    let lost = CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE;
    assert_eq!(bench.synchronize(stream), lost);
    assert_eq!(end.recv().unwrap(), None);
}
