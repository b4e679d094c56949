//! Captures and graphs: what they retain and refuse, and where and when a graph runs.

use std::{
    ffi::c_void,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use cuda_green_sim::BlockCost;
use cuda_green_sys::*;
use proptest::prelude::*;

use crate::client::*;

const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const THREAD: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

fn begin(client: &Client, stream: CUstream) {
    ok!(client, cuStreamBeginCapture_v2(stream, GLOBAL));
}

fn end(client: &Client, stream: CUstream) -> Result<CUgraph, CUresult> {
    let mut graph = ptr::dangling_mut();
    let code = call!(client, cuStreamEndCapture(stream, &mut graph));
    assert_eq!(code == OK, !graph.is_null(), "a graph or an error");
    code.ok().map(|()| graph)
}

fn instantiate(client: &Client, graph: CUgraph) -> CUgraphExec {
    let mut exec = ptr::null_mut();
    ok!(client, cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

/// Two green contexts of one split, each with a stream.
fn two(client: &Client) -> [(CUgreenCtx, CUstream); 2] {
    let split = client.split(&client.device_sms(), 2, 0, 32).unwrap();
    [0, 1].map(|index| {
        let green = client.green(&split.groups[index..=index]).unwrap();
        (green, client.stream(green))
    })
}

fn close(client: &Client, contexts: &[(CUgreenCtx, CUstream)]) {
    for (green, stream) in contexts {
        ok!(client, cuStreamDestroy_v2(*stream));
        assert_eq!(client.destroy(*green), OK);
    }
}

fn event(client: &Client) -> CUevent {
    let mut event = ptr::null_mut();
    ok!(client, cuEventCreate(&mut event, 0));
    event
}

fn status(client: &Client, stream: CUstream) -> u32 {
    let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    ok!(client, cuStreamIsCapturing(stream, &mut status));
    status.0
}

#[test]
fn a_graph_runs_on_the_sms_of_its_capture_each_time_it_is_launched() {
    let client = Client::new("h200@13.0");
    let contexts = two(&client);
    let [(_, first), (_, second)] = contexts;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    client.sim.register_kernel("custom", move |launch| {
        noted.lock().unwrap().push(launch.sm_ids().to_vec());
    });
    let (module, function) = client.function(c"custom");
    let address = client.alloc(64).unwrap();
    let mut argument = address;
    begin(&client, first);
    ok!(client, cuMemsetD8Async(address, 5, 64, first));
    let mut args: [*mut c_void; 1] = [(&raw mut argument).cast()];
    assert_eq!(client.launch(function, 4, first, &mut args), OK);
    argument = 0; // taken in at the launch
    assert_ne!(argument, address);
    let mut back = [0_u8; 64];
    ok!(
        client,
        cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), address, 64, first)
    );
    assert_eq!(status(&client, first), 1);
    let graph = end(&client, first).unwrap();
    assert_eq!(status(&client, first), 0);
    assert!(seen.lock().unwrap().is_empty(), "a capture runs nothing");
    assert_eq!(back, [0; 64]);
    let exec = instantiate(&client, graph);
    ok!(client, cuGraphDestroy(graph));
    for stream in [second, first, second] {
        ok!(client, cuGraphLaunch(exec, stream));
        ok!(client, cuStreamSynchronize(stream));
    }
    assert_eq!(back, [5; 64]);
    let expected: Vec<u32> = client.sm_ids(first);
    assert_eq!(expected.len(), 32);
    assert_eq!(*seen.lock().unwrap(), vec![expected; 3]);
    ok!(client, cuGraphExecDestroy(exec));
    assert_eq!(call!(client, cuGraphExecDestroy(exec)), INVALID_VALUE);
    ok!(client, cuMemFree_v2(address));
    ok!(client, cuModuleUnload(module));
    close(&client, &contexts);
    client.finish();
}

#[test]
fn what_asks_or_waits_or_allocates_spoils_a_capture() {
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    type Call = fn(&Client, CUstream, CUgreenCtx) -> CUresult;
    let calls: [(&str, Call); 10] = [
        ("synchronize", |c, s, _| call!(c, cuStreamSynchronize(s))),
        ("query", |c, s, _| call!(c, cuStreamQuery(s))),
        ("ask another stream", |c, _, _| {
            call!(c, cuStreamQuery(ptr::null_mut()))
        }),
        ("flags", |c, s, _| call!(c, cuStreamGetFlags(s, &mut 0))),
        ("instantiate", |c, _, _| {
            let (mut graph, mut exec) = (ptr::null_mut(), ptr::null_mut());
            ok!(c, cuGraphCreate(&mut graph, 0));
            let code = call!(c, cuGraphInstantiateWithFlags(&mut exec, graph, 0));
            ok!(c, cuGraphDestroy(graph));
            code
        }),
        ("allocate in order", |c, _, _| {
            call!(c, cuMemAllocAsync(&mut 0, 64, ptr::null_mut()))
        }),
        ("allocate", |c, _, _| call!(c, cuMemAlloc_v2(&mut 0, 64))),
        ("free", |c, _, _| call!(c, cuMemFree_v2(0))),
        ("pin", |c, _, _| {
            call!(c, cuMemHostAlloc(&mut ptr::null_mut(), 64, 0))
        }),
        ("record a context", |c, _, green| {
            let event = ptr::without_provenance_mut(1);
            call!(c, cuGreenCtxRecordEvent(green, event))
        }),
    ];
    for (name, what) in calls {
        let client = Client::new("h200@13.0");
        let contexts = two(&client);
        let (green, stream) = contexts[0];
        begin(&client, stream);
        assert_eq!(what(&client, stream, green), unsupported, "{name}");
        assert_eq!(status(&client, stream), 2, "{name}");
        let spoilt = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        assert_eq!(call!(client, cuMemsetD8Async(0, 0, 0, stream)), spoilt);
        assert_eq!(end(&client, stream), Err(spoilt), "{name}");
        // Afterwards the stream works as before.
        ok!(client, cuStreamSynchronize(stream));
        close(&client, &contexts);
        client.finish();
    }
}

/// Calls that neither wait for captured work nor allocate memory for the client are allowed.
#[test]
fn what_a_capture_leaves_alone() {
    let client = Client::new("h200@13.0");
    let contexts = two(&client);
    let (_, stream) = contexts[0];
    let groups = client.split(&client.device_sms(), 2, 0, 32).unwrap().groups;
    begin(&client, stream);
    ok!(client, cuCtxSynchronize());
    let mut byte = 0_u8;
    ok!(client, cuMemcpyDtoH_v2((&raw mut byte).cast(), 0, 0));
    let (module, _) = client.function(c"custom");
    let green = client.green(&groups[..1]).unwrap();
    assert_eq!(status(&client, stream), 1);
    let graph = end(&client, stream).unwrap();
    ok!(client, cuGraphDestroy(graph));
    ok!(client, cuModuleUnload(module));
    assert_eq!(client.destroy(green), OK);
    close(&client, &contexts);
    client.finish();
}

/// Destroying a context ends no capture, and a capture whose origin stream is gone can never end.
#[test]
fn captures_outlive_contexts() {
    let client = Client::new("h200@13.0");
    let [(of_first, first), (of_second, second)] = two(&client);
    let event = event(&client);
    begin(&client, first);
    ok!(client, cuEventRecord(event, first));
    ok!(client, cuStreamWaitEvent(second, event, 0));
    assert_eq!(client.destroy(of_second), OK);
    let graph = end(&client, first).unwrap();
    ok!(client, cuGraphDestroy(graph));
    begin(&client, first);
    assert_eq!(client.destroy(of_first), OK);
    let gone = CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED;
    assert_eq!(end(&client, first), Err(gone));
    let forbidden = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    assert_eq!(client.alloc(64), Err(forbidden));
    ok!(client, cuEventDestroy_v2(event));
    // They stay until the primary context ends too.
    ok!(client, cuDevicePrimaryCtxRelease_v2(0));
    let mut primary = ptr::null_mut();
    ok!(client, cuDevicePrimaryCtxRetain(&mut primary, 0));
    let address = client.alloc(64).unwrap();
    ok!(client, cuMemFree_v2(address));
    assert_eq!(client.sim.live_objects().abandoned, 2);
}

/// A green context's default stream can be captured like its other streams; the legacy one cannot.
#[test]
fn default_streams_in_captures() {
    let client = Client::new("h200@13.0");
    let contexts = two(&client);
    let none = ptr::null_mut();
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let refused = call!(client, cuStreamBeginCapture_v2(none, GLOBAL));
    assert_eq!(refused, unsupported);
    let mut inside = ptr::null_mut();
    ok!(client, cuCtxFromGreenCtx(&mut inside, contexts[0].0));
    ok!(client, cuCtxPushCurrent_v2(inside));
    begin(&client, none);
    let event = event(&client);
    ok!(client, cuEventRecord(event, none));
    ok!(client, cuStreamWaitEvent(contexts[1].1, event, 0));
    assert_eq!(status(&client, contexts[1].1), 1);
    let graph = end(&client, none).unwrap();
    ok!(client, cuGraphDestroy(graph));
    // It can also join a capture as a fork.
    begin(&client, contexts[1].1);
    ok!(client, cuEventRecord(event, contexts[1].1));
    ok!(client, cuStreamWaitEvent(none, event, 0));
    assert_eq!(status(&client, none), 1);
    let graph = end(&client, contexts[1].1).unwrap();
    ok!(client, cuGraphDestroy(graph));
    ok!(client, cuEventDestroy_v2(event));
    ok!(client, cuCtxPopCurrent_v2(&mut inside));
    close(&client, &contexts);
    client.finish();
}

/// A wrong launch, and the launch of a graph of another context, in a capture.
#[test]
fn what_spoils_a_capture_in_its_own_stream() {
    let client = Client::new("h200@13.0");
    let contexts = two(&client);
    let (_, stream) = contexts[0];
    let mut graph = ptr::null_mut();
    ok!(client, cuGraphCreate(&mut graph, 0));
    let exec = instantiate(&client, graph);
    let (module, function) = client.function(c"custom");
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    for (code, of_graph) in [(INVALID_VALUE, false), (unsupported, true)] {
        begin(&client, stream);
        let said = if of_graph {
            call!(client, cuGraphLaunch(exec, stream))
        } else {
            client.launch(function, 0, stream, &mut [])
        };
        assert_eq!(said, code);
        assert_eq!(status(&client, stream), 2);
        assert!(end(&client, stream).is_err());
    }
    ok!(client, cuModuleUnload(module));
    ok!(client, cuGraphExecDestroy(exec));
    ok!(client, cuGraphDestroy(graph));
    close(&client, &contexts);
    client.finish();
}

#[test]
fn modes_say_what_other_threads_may_do() {
    let client = Client::new("h200@13.0");
    let contexts = two(&client);
    let stream = contexts[0].1;
    for (mode, here, there) in [
        (GLOBAL, false, false),
        (THREAD, false, true),
        (RELAXED, true, true),
    ] {
        for (own_thread, allowed) in [(true, here), (false, there)] {
            ok!(client, cuStreamBeginCapture_v2(stream, mode));
            let api = &client.api;
            let free = || unsafe { api.cuMemFree_v2(0) }.unwrap();
            let code = if own_thread {
                free()
            } else {
                std::thread::scope(|scope| scope.spawn(free).join().unwrap())
            };
            assert_eq!(code == OK, allowed, "{mode:?} own thread {own_thread}");
            let graph = end(&client, stream);
            assert_eq!(graph.is_ok(), allowed);
            if let Ok(graph) = graph {
                ok!(client, cuGraphDestroy(graph));
            }
        }
    }
    // A thread may choose to ignore what other threads' captures forbid.
    ok!(client, cuStreamBeginCapture_v2(stream, GLOBAL));
    let mut mode = RELAXED;
    ok!(client, cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_eq!(mode, GLOBAL);
    ok!(client, cuMemFree_v2(0));
    ok!(client, cuThreadExchangeStreamCaptureMode(&mut mode));
    assert_eq!(mode, RELAXED);
    let graph = end(&client, stream).unwrap();
    ok!(client, cuGraphDestroy(graph));
    // Only a relaxed capture can end on another thread.
    let wrong = CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    ok!(client, cuStreamBeginCapture_v2(stream, GLOBAL));
    let (api, raw) = (&client.api, stream as usize);
    let elsewhere = || {
        let mut graph = ptr::null_mut();
        let stream = ptr::without_provenance_mut(raw);
        unsafe { api.cuStreamEndCapture(stream, &mut graph) }.unwrap()
    };
    let code = std::thread::scope(|scope| scope.spawn(elsewhere).join().unwrap());
    assert_eq!(code, wrong);
    // Its graph is lost.
    assert_eq!(status(&client, stream), 0);
    let illegal = CUresult::CUDA_ERROR_ILLEGAL_STATE;
    assert_eq!(end(&client, stream), Err(illegal));
    close(&client, &contexts);
    client.finish();
}

#[test]
fn a_capture_forks_into_other_contexts_and_must_come_back() {
    let client = Client::new("h200@13.0");
    let contexts = two(&client);
    let [(_, first), (_, second)] = contexts;
    let (fork, join) = (event(&client), event(&client));
    let captured = CUresult::CUDA_ERROR_CAPTURED_EVENT;
    for come_back in [true, false] {
        begin(&client, first);
        ok!(client, cuEventRecord(fork, first));
        ok!(client, cuStreamWaitEvent(second, fork, 0));
        assert_eq!(status(&client, second), 1);
        ok!(client, cuMemsetD8Async(0, 0, 0, second));
        assert_eq!(
            call!(client, cuEventElapsedTime(&mut 0.0, fork, fork)),
            captured
        );
        if come_back {
            ok!(client, cuEventRecord(join, second));
            ok!(client, cuStreamWaitEvent(first, join, 0));
            let graph = end(&client, first).unwrap();
            ok!(client, cuGraphDestroy(graph));
        } else {
            let unjoined = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
            assert_eq!(end(&client, first), Err(unjoined));
        }
        assert_eq!(status(&client, second), 0);
        assert_eq!(call!(client, cuEventQuery(fork)), INVALID_VALUE);
        let code = call!(client, cuStreamWaitEvent(second, fork, 0));
        assert_eq!(code, INVALID_VALUE);
        // Querying one during the capture invalidates it.
        begin(&client, first);
        ok!(client, cuEventRecord(fork, first));
        assert_eq!(call!(client, cuEventQuery(fork)), captured);
        assert_eq!(status(&client, first), 2);
        assert!(end(&client, first).is_err());
    }
    // A capture cannot wait for work outside of it, two captures cannot merge, and each ends in its origin stream.
    for event in [fork, join] {
        ok!(client, cuEventRecord(event, second));
    }
    begin(&client, first);
    let isolation = CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    assert_eq!(call!(client, cuStreamWaitEvent(first, fork, 0)), isolation);
    assert!(end(&client, first).is_err());
    begin(&client, first);
    begin(&client, second);
    ok!(client, cuEventRecord(fork, first));
    let merge = CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE;
    assert_eq!(call!(client, cuStreamWaitEvent(second, fork, 0)), merge);
    assert!(end(&client, first).is_err() && end(&client, second).is_err());
    begin(&client, first);
    ok!(client, cuEventRecord(fork, first));
    ok!(client, cuStreamWaitEvent(second, fork, 0));
    let unmatched = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    assert_eq!(end(&client, second), Err(unmatched));
    assert!(end(&client, first).is_err());
    let illegal = CUresult::CUDA_ERROR_ILLEGAL_STATE;
    assert_eq!(end(&client, first), Err(illegal));
    begin(&client, first);
    assert_eq!(
        call!(client, cuStreamBeginCapture_v2(first, GLOBAL)),
        illegal
    );
    let graph = end(&client, first).unwrap();
    ok!(client, cuGraphDestroy(graph));
    for event in [fork, join] {
        ok!(client, cuEventDestroy_v2(event));
    }
    close(&client, &contexts);
    client.finish();
}

/// Branches of a graph run concurrently, and launches of one instance run one after the other, in any streams. There
/// is room for all of them at once.
#[test]
fn time_follows_the_graph() {
    let client = Client::new("h200@13.0");
    client
        .sim
        .register_kernel_cost("custom", |_| BlockCost::idle(Duration::from_micros(100)));
    let contexts = two(&client);
    let [(_, first), (_, second)] = contexts;
    let (module, function) = client.function(c"custom");
    let mut argument = 0_u64;
    let mut launch = |stream| {
        let mut args: [*mut c_void; 1] = [(&raw mut argument).cast()];
        assert_eq!(client.launch(function, 32, stream, &mut args), OK);
    };
    let (fork, join) = (event(&client), event(&client));
    begin(&client, first);
    ok!(client, cuEventRecord(fork, first));
    ok!(client, cuStreamWaitEvent(second, fork, 0));
    launch(first);
    launch(second);
    ok!(client, cuEventRecord(join, second));
    ok!(client, cuStreamWaitEvent(first, join, 0));
    launch(first);
    let exec = {
        let graph = end(&client, first).unwrap();
        let exec = instantiate(&client, graph);
        ok!(client, cuGraphDestroy(graph));
        exec
    };
    let us = |from: Duration| (client.sim.now() - from).as_micros();
    let start = client.sim.now();
    ok!(client, cuGraphLaunch(exec, first));
    let not_yet = CUresult::CUDA_ERROR_NOT_READY;
    assert_eq!(call!(client, cuStreamQuery(first)), not_yet);
    ok!(client, cuStreamSynchronize(first));
    assert!((200..220).contains(&us(start)), "{}", us(start));
    let start = client.sim.now();
    ok!(client, cuGraphLaunch(exec, first));
    ok!(client, cuGraphLaunch(exec, second));
    ok!(client, cuStreamSynchronize(second));
    assert!((400..420).contains(&us(start)), "{}", us(start));
    ok!(client, cuGraphExecDestroy(exec));
    for event in [fork, join] {
        ok!(client, cuEventDestroy_v2(event));
    }
    ok!(client, cuModuleUnload(module));
    close(&client, &contexts);
    client.finish();
}

#[test]
fn an_empty_graph_and_wrong_flags() {
    let client = Client::new("h200@13.0");
    let mut graph = ptr::null_mut();
    assert_eq!(call!(client, cuGraphCreate(&mut graph, 1)), INVALID_VALUE);
    ok!(client, cuGraphCreate(&mut graph, 0));
    let mut exec = ptr::null_mut();
    let code = call!(client, cuGraphInstantiateWithFlags(&mut exec, graph, 16));
    assert_eq!(code, INVALID_VALUE);
    let exec = instantiate(&client, graph);
    ok!(client, cuGraphUpload(exec, ptr::null_mut()));
    ok!(client, cuGraphLaunch(exec, ptr::null_mut()));
    let live = client.sim.live_objects();
    assert_eq!((live.graphs, live.graph_execs), (1, 1));
    ok!(client, cuGraphDestroy(graph));
    ok!(client, cuGraphLaunch(exec, ptr::null_mut()));
    ok!(client, cuGraphExecDestroy(exec));
    assert_eq!(call!(client, cuGraphDestroy(graph)), INVALID_VALUE);
    client.finish();
}

/// The argument of a host function.
struct Given {
    calls: AtomicU32,
    caller: std::thread::ThreadId,
    api: *const Api,
}

unsafe extern "C" fn note(data: *mut c_void) {
    let given = unsafe { &*data.cast::<Given>() };
    assert_ne!(std::thread::current().id(), given.caller);
    let refused = unsafe { (*given.api).cuMemFree_v2(0) }.unwrap();
    assert_eq!(refused, CUresult::CUDA_ERROR_NOT_PERMITTED);
    given.calls.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn host_functions_run_elsewhere_and_may_not_call_back() {
    let client = Client::new("h200@13.0");
    let given = Given {
        calls: AtomicU32::new(0),
        caller: std::thread::current().id(),
        api: &client.api,
    };
    let data = (&raw const given).cast_mut().cast::<c_void>();
    let none = call!(client, cuLaunchHostFunc(ptr::null_mut(), None, data));
    assert_eq!(none, INVALID_VALUE);
    ok!(client, cuLaunchHostFunc(ptr::null_mut(), Some(note), data));
    ok!(client, cuCtxSynchronize());
    assert_eq!(given.calls.load(Ordering::SeqCst), 1);
    let contexts = two(&client);
    let stream = contexts[0].1;
    begin(&client, stream);
    ok!(client, cuLaunchHostFunc(stream, Some(note), data));
    let graph = end(&client, stream).unwrap();
    let exec = instantiate(&client, graph);
    assert_eq!(given.calls.load(Ordering::SeqCst), 1);
    ok!(client, cuGraphLaunch(exec, stream));
    ok!(client, cuGraphLaunch(exec, stream));
    assert_eq!(given.calls.load(Ordering::SeqCst), 3);
    ok!(client, cuGraphExecDestroy(exec));
    ok!(client, cuGraphDestroy(graph));
    close(&client, &contexts);
    client.finish();
}

/// A step of a random program over three streams of three contexts.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Launches a kernel of this many tenths of a millisecond in a stream.
    Kernel(usize, u32),
    /// The second stream waits for the first.
    Order(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_usize..3, 1_u32..9).prop_map(|(stream, time)| Step::Kernel(stream, time)),
        2 => (0_usize..3, 0_usize..3).prop_map(|(first, then)| Step::Order(first, then)),
    ];
    prop::collection::vec(step, 1..25)
}

/// Computes by hand when everything is done if only the order of the streams counts: each stream's end in tenths of a
/// millisecond.
fn expected(steps: &[Step]) -> u32 {
    let mut ends = [0; 3];
    for step in steps {
        match *step {
            Step::Kernel(stream, time) => ends[stream] += time,
            Step::Order(first, then) => ends[then] = ends[then].max(ends[first]),
        }
    }
    ends.into_iter().max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A graph has the same effect as its program run directly, and takes the same time except for the host's time
    /// for the launches.
    #[test]
    fn a_graph_is_its_program(steps in steps()) {
        let client = Client::new("h200@13.0");
        client.sim.register_kernel_cost("custom", |launch| {
            BlockCost::busy(Duration::from_micros(100 * launch.arg_u64(0).unwrap()))
        });
        let split = client.split(&client.device_sms(), 3, 0, 32).unwrap();
        let contexts: Vec<_> = (0..3)
            .map(|index| {
                let green = client.green(&split.groups[index..=index]).unwrap();
                (green, client.stream(green))
            })
            .collect();
        let (module, function) = client.function(c"custom");
        let event = event(&client);
        let order = |first: CUstream, then: CUstream| {
            ok!(client, cuEventRecord(event, first));
            ok!(client, cuStreamWaitEvent(then, event, 0));
        };
        let stream = |index: usize| contexts[index].1;
        // Fork from the first stream into the others, run the program, and join.
        let run = || {
            order(stream(0), stream(1));
            order(stream(0), stream(2));
            for step in &steps {
                match *step {
                    Step::Kernel(index, time) => {
                        let mut time = u64::from(time);
                        let mut args: [*mut c_void; 1] = [(&raw mut time).cast()];
                        assert_eq!(client.launch(function, 1, stream(index), &mut args), OK);
                    }
                    Step::Order(first, then) => order(stream(first), stream(then)),
                }
            }
            order(stream(1), stream(0));
            order(stream(2), stream(0));
        };
        let start = client.sim.now();
        run();
        ok!(client, cuStreamSynchronize(stream(0)));
        let as_written = (client.sim.now() - start).as_micros() as u32;
        begin(&client, stream(0));
        run();
        let graph = end(&client, stream(0)).unwrap();
        let exec = instantiate(&client, graph);
        ok!(client, cuGraphDestroy(graph));
        let start = client.sim.now();
        ok!(client, cuGraphLaunch(exec, stream(0)));
        ok!(client, cuStreamSynchronize(stream(0)));
        let as_graph = (client.sim.now() - start).as_micros() as u32;
        let ideal = expected(&steps) * 100;
        // A launch takes 2.6 us on the host, and the wait 5 us.
        prop_assert!((ideal..=ideal + 8).contains(&as_graph), "{as_graph}, ideal {ideal}");
        let launches = 3 * steps.len() as u32 + 8;
        prop_assert!((ideal..=ideal + launches).contains(&as_written), "{as_written}");
        ok!(client, cuGraphExecDestroy(exec));
        ok!(client, cuEventDestroy_v2(event));
        ok!(client, cuModuleUnload(module));
        close(&client, &contexts);
        client.finish();
    }
}
