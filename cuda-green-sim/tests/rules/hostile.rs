//! Clients that break rules: each gets an error code, and the simulator stays intact.

use std::{cell::RefCell, ffi::c_void, ptr};

use cuda_green_sim::Sim;
use cuda_green_sys::*;

use crate::client::*;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// Unmapped memory cannot be pinned, nor more than the address space has, nor the same memory twice.
#[test]
fn only_memory_that_is_there_is_pinned() {
    let client = Client::new("h200@13.0");
    let mut bytes = vec![0_u8; 1 << 20];
    let start: *mut c_void = bytes.as_mut_ptr().cast();
    let register = |pointer: *mut c_void, len| call!(client, cuMemHostRegister_v2(pointer, len, 0));
    let wild = ptr::without_provenance_mut(0x1000);
    assert_eq!(register(wild, 4096), INVALID);
    let last = ptr::without_provenance_mut(usize::MAX - 10);
    assert_eq!(register(last, 4096), INVALID);
    assert_eq!(register(start, usize::MAX), INVALID);
    assert_eq!(register(start, 1 << 40), INVALID);
    assert_eq!(register(start, 1 << 20), OK);
    let already = CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    let inside = start.wrapping_byte_add(100);
    assert_eq!(register(inside, 10), already);
    assert_eq!(register(start, 10), already);
    ok!(client, cuMemHostUnregister(start));
    // Memory that was not pinned is not treated as pinned: no copy in a stream reads it.
    let mut kind = 0_u32;
    let which = CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    let code = call!(
        client,
        cuPointerGetAttribute((&raw mut kind).cast(), which, 0x1000)
    );
    assert_eq!(code, INVALID);
    client.finish();
}

/// Alignments and sizes beyond all addresses return out of memory, and afterwards no address is given out twice.
#[test]
fn addresses_do_not_wrap() {
    let client = Client::new("h200@13.0");
    let reserve = |len, alignment| {
        let mut address = 0;
        let code = call!(
            client,
            cuMemAddressReserve(&mut address, len, alignment, 0, 0)
        );
        (code, address)
    };
    let step = 2 << 20;
    let first = reserve(step, 0).1;
    for alignment in [1 << 63, 1 << 62, 1 << 58] {
        assert_ne!(reserve(step, alignment).0, OK, "{alignment:#x}");
    }
    assert_ne!(reserve(1 << 62, 0).0, OK);
    let (code, second) = reserve(step, 0);
    assert_eq!(code, OK);
    assert!(second >= first + step as u64);
    let memory = client.alloc(64).unwrap();
    assert!(memory >= second + step as u64 || memory + 64 <= first);
    for address in [first, second] {
        ok!(client, cuMemAddressFree(address, step));
    }
    ok!(client, cuMemFree_v2(memory));
    client.finish();
}

/// A kernel with larger parameters than any kernel can have does not load.
#[test]
fn parameters_beyond_all_bounds_do_not_load() {
    let client = Client::new("h200@13.0");
    for size in ["38000000000000", "40000", "18446744073709551615"] {
        let text = format!(
            ".version 7.0\n.target sm_70\n.address_size 64\n\
             .visible .entry huge(.param .b8 all[{size}]) {{ ret; }}\n\0"
        );
        let mut module = ptr::null_mut();
        let code = call!(client, cuModuleLoadData(&mut module, text.as_ptr().cast()));
        assert_eq!(code, CUresult::CUDA_ERROR_INVALID_PTX, "{size}");
    }
    client.finish();
}

/// Splitting again and again does not use up memory, and the resources in use stay valid.
#[test]
fn splits_for_ever_are_bounded() {
    let client = Client::new("h200@13.0");
    let whole = client.device_sms();
    let kept = client.split(&whole, 4, 0, 32).unwrap();
    let green = client.green(&kept.groups[..1]).unwrap();
    let rounds = if cfg!(miri) { 10 } else { 20_000 };
    for _ in 0..rounds {
        client.split(&whole, 4, 0, 32).unwrap();
    }
    assert_eq!(count(&client.green_sms(green)), 32);
    let again = client.split(&whole, 4, 0, 32).unwrap();
    let other = client.green(&again.groups[1..2]).unwrap();
    assert_eq!(client.destroy(other), OK);
    assert_eq!(client.destroy(green), OK);
    client.finish();
}

thread_local! {
    /// Calls the driver when the thread-local values are destroyed.
    static LAST: RefCell<Option<Late>> = const { RefCell::new(None) };
}

struct Late {
    api: Api,
    /// Keeps its functions callable.
    _sim: Sim,
}

impl Drop for Late {
    fn drop(&mut self) {
        let Self { api, .. } = self;
        let mut context = ptr::null_mut();
        let mut mode = CUstreamCaptureMode_enum(2);
        unsafe {
            assert_eq!(api.cuCtxGetCurrent(&mut context).unwrap(), OK);
            let unknown = CUresult::CUDA_ERROR_UNKNOWN;
            assert_ne!(api.cuCtxPopCurrent_v2(&mut context).unwrap(), unknown);
            assert_eq!(
                api.cuThreadExchangeStreamCaptureMode(&mut mode).unwrap(),
                OK
            );
            assert_ne!(api.cuStreamSynchronize(ptr::null_mut()).unwrap(), unknown);
        }
    }
}

/// At the end of a thread, after its thread-local values are gone, calls return codes instead of panicking.
#[test]
fn calls_at_the_end_of_a_thread_are_answered() {
    let client = Client::new("h200@13.0");
    let primary = client.primary as usize;
    let (sim, api) = (client.sim.clone(), client.sim.api().unwrap());
    let thread = std::thread::spawn(move || {
        // Destroyed after the simulator's thread-local values, which are created later.
        LAST.with_borrow_mut(|last| {
            *last = Some(Late {
                api: sim.api().unwrap(),
                _sim: sim.clone(),
            })
        });
        let primary = ptr::without_provenance_mut(primary);
        assert_eq!(unsafe { api.cuCtxPushCurrent_v2(primary) }.unwrap(), OK);
    });
    thread.join().unwrap();
    client.finish();
}
