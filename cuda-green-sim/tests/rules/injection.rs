//! Faults on demand, and the report of what a test left behind.

use std::{
    process::Command,
    ptr,
    time::{Duration, Instant},
};

use cuda_green_sim::{Error, FAULTS_VARIABLE, Injection, Sim};
use cuda_green_sys::{Api, CUresult};

use crate::client::{Client, OK, simulator};

fn alloc(api: &Api, bytes: usize) -> Result<u64, CUresult> {
    let mut address = 0;
    unsafe { api.cuMemAlloc_v2(&mut address, bytes) }
        .unwrap()
        .ok()?;
    Ok(address)
}

fn free(api: &Api, address: u64) -> CUresult {
    unsafe { api.cuMemFree_v2(address) }.unwrap()
}

#[test]
fn a_call_fails_at_its_turn_and_does_nothing() {
    let client = Client::new("h200@13.0");
    let code = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    client.sim.fail("cuMemAlloc", 2, code).unwrap();
    let first = alloc(&client.api, 512).unwrap();
    assert_eq!(alloc(&client.api, 512), Err(code));
    let third = alloc(&client.api, 512).unwrap();
    assert_eq!(client.sim.live_objects().device_allocations, 2);
    client.sim.fail("cuMemFree_v2", 1, code).unwrap();
    assert_eq!(client.sim.unfired_injections().len(), 1);
    assert_eq!(free(&client.api, first), code);
    client.sim.assert_injections_fired();
    assert_eq!(client.sim.live_objects().device_allocations, 2);
    assert_eq!(
        (free(&client.api, first), free(&client.api, third)),
        (OK, OK)
    );
    client.finish();
}

#[test]
fn any_call_can_be_meant_by_its_number() {
    let client = Client::new("h200@13.0");
    let before = client.sim.calls();
    client.sim.start_trace();
    client
        .sim
        .fail("*", 3, CUresult::CUDA_ERROR_UNKNOWN)
        .unwrap();
    let mut context = ptr::null_mut();
    let codes = [(); 4].map(|()| unsafe { client.api.cuCtxGetCurrent(&mut context) }.unwrap());
    assert_eq!(codes, [OK, OK, CUresult::CUDA_ERROR_UNKNOWN, OK]);
    assert_eq!(client.sim.calls(), before + 4);
    let trace = client.sim.take_trace();
    assert_eq!(trace.len(), 4);
    assert!(
        trace
            .iter()
            .all(|call| call.entry_point == "cuCtxGetCurrent")
    );
    assert_eq!(trace[0].call, before + 1);
    client.finish();
}

#[test]
fn a_code_that_stays_stays() {
    let client = Client::new("h200@13.0");
    let code = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    client.sim.fail("cuCtxSynchronize", 1, code).unwrap();
    unsafe {
        assert_eq!(client.api.cuCtxSynchronize().unwrap(), code);
        assert_eq!(client.api.cuCtxSynchronize().unwrap(), code);
    }
    assert_eq!(alloc(&client.api, 512), Err(code));
}

#[test]
fn memory_ends_before_it_is_full() {
    let client = Client::new("h200@13.0");
    client.sim.inject(Injection::memory_full_at(1 << 20));
    let half = alloc(&client.api, 1 << 19).unwrap();
    let rest = alloc(&client.api, 1 << 19).unwrap();
    let full = Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(alloc(&client.api, 1), full);
    assert_eq!(free(&client.api, half), OK);
    let again = alloc(&client.api, 4096).unwrap();
    client.sim.inject("memory=50%".parse().unwrap());
    assert_eq!(alloc(&client.api, 100 << 30), full);
    client.sim.clear_injections();
    let large = alloc(&client.api, 100 << 30).unwrap();
    for address in [rest, again, large] {
        assert_eq!(free(&client.api, address), OK);
    }
    client.finish();
}

#[test]
fn a_device_disappears_and_the_other_stays() {
    let client = Client::new("2xh200@13.0");
    let (api, sim) = (&client.api, &client.sim);
    let lost = CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE;
    let address = alloc(api, 512).unwrap();
    let mut stream = ptr::null_mut();
    let mut event = ptr::null_mut();
    let mut other = ptr::null_mut();
    unsafe {
        assert_eq!(
            api.cuStreamCreateWithPriority(&mut stream, 1, 0).unwrap(),
            OK
        );
        assert_eq!(api.cuEventCreate(&mut event, 0).unwrap(), OK);
        assert_eq!(api.cuDevicePrimaryCtxRetain(&mut other, 1).unwrap(), OK);
        sim.inject(Injection::lose_device(0).at(2));
        assert_eq!(api.cuStreamQuery(stream).unwrap(), OK);
        assert_eq!(api.cuStreamQuery(stream).unwrap(), lost);
        assert_eq!(api.cuStreamDestroy_v2(stream).unwrap(), lost);
        assert_eq!(api.cuEventQuery(event).unwrap(), lost);
        assert_eq!(api.cuEventDestroy_v2(event).unwrap(), lost);
        assert_eq!(api.cuCtxSetCurrent(client.primary).unwrap(), lost);
        assert_eq!(api.cuDevicePrimaryCtxRelease_v2(0).unwrap(), lost);
        assert_eq!(free(api, address), lost);
        let live = sim.live_objects();
        assert_eq!(
            (live.primary_retains, live.streams, live.device_bytes),
            (1, 0, 0)
        );
        // The current context belongs to the lost device, but can still be popped.
        assert_eq!(api.cuCtxPopCurrent_v2(ptr::null_mut()).unwrap(), OK);
        assert_eq!(api.cuCtxPushCurrent_v2(other).unwrap(), OK);
        let address = alloc(api, 512).unwrap();
        assert_eq!(free(api, address), OK);
        assert_eq!(api.cuCtxPopCurrent_v2(ptr::null_mut()).unwrap(), OK);
        assert_eq!(api.cuDevicePrimaryCtxRelease_v2(1).unwrap(), OK);
    }
    sim.assert_no_leaks();
}

#[test]
fn a_call_is_slow_in_both_times() {
    let sim = simulator("h200@13.0");
    let delay = Duration::from_millis(30);
    sim.inject(Injection::slow("cuInit", delay).unwrap());
    let api = sim.api().unwrap();
    let start = Instant::now();
    assert_eq!(unsafe { api.cuInit(0) }.unwrap(), OK);
    assert!(start.elapsed() >= delay);
    assert!(sim.now() >= delay);
}

/// Runs itself again with the variable set, because all tests of a process share its environment.
#[test]
fn the_environment_says_what_fails() {
    const INSIDE: &str = "CUDA_GREEN_SIM_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        match Sim::new("h200@13.0") {
            Ok(sim) => {
                let code = unsafe { sim.api().unwrap().cuInit(0) }.unwrap();
                assert_eq!(code, CUresult::CUDA_ERROR_SYSTEM_NOT_READY);
            }
            Err(error) => {
                assert!(matches!(error, Error::InvalidInjection { .. }));
                assert!(error.to_string().contains("cuNothing"), "{error}");
            }
        }
        return;
    }
    for faults in ["cuInit#1=SYSTEM_NOT_READY; memory=50%", "cuNothing=1"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "injection::the_environment_says_what_fails"])
            .env(INSIDE, "1")
            .env(FAULTS_VARIABLE, faults)
            .output()
            .unwrap();
        assert!(output.status.success(), "{faults}: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "{faults}: {said}");
    }
}

#[test]
fn what_is_left_tells_where_it_was_made() {
    let client = Client::new("h200@13.0");
    let mut streams = [ptr::null_mut(); 2];
    for stream in &mut streams {
        unsafe {
            let code = client.api.cuStreamCreateWithPriority(stream, 1, 0);
            assert_eq!(code.unwrap(), OK);
        }
    }
    let last = client.sim.calls();
    let text = client.sim.check_leaks().unwrap_err().to_string();
    let streams_made = format!(
        "2 streams (cuStreamCreateWithPriority at call {}, {last})",
        last - 1
    );
    assert!(text.contains(&streams_made), "{text}");
    assert!(
        text.contains("1 primary retain (cuDevicePrimaryCtxRetain at call "),
        "{text}"
    );
    let left = &client.sim.live_objects().objects[2];
    assert_eq!((left.kind, left.made_at.call), ("stream", last));
    for stream in streams {
        assert_eq!(
            unsafe { client.api.cuStreamDestroy_v2(stream) }.unwrap(),
            OK
        );
    }
    client.finish();
}

#[test]
fn the_guard_fails_a_test_that_leaves_something() {
    let leave = || {
        let sim = simulator("h200@13.0");
        let _guard = sim.leak_guard();
        let api = sim.api().unwrap();
        let mut context = ptr::null_mut();
        unsafe {
            assert_eq!(api.cuInit(0).unwrap(), OK);
            assert_eq!(api.cuDevicePrimaryCtxRetain(&mut context, 0).unwrap(), OK);
        }
    };
    let panic = std::panic::catch_unwind(leave).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("cuDevicePrimaryCtxRetain at call"), "{text}");
    // A panic of the test is not hidden behind another.
    let own = std::panic::catch_unwind(|| {
        let sim = simulator("h200@13.0");
        let _guard = sim.leak_guard();
        assert_eq!(1, 2, "its own");
    });
    assert!(
        own.unwrap_err()
            .downcast_ref::<String>()
            .unwrap()
            .contains("its own")
    );
}
