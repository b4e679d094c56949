//! The slots for drivers in a process.
//!
//! A test binary of its own, because the test takes all slots.

#![allow(clippy::undocumented_unsafe_blocks, clippy::unwrap_used)] // the pointers are to live locals

use cuda_green_sim::{Error, MAX_DRIVERS, Sim};
use cuda_green_sys::CUresult;

#[test]
fn places_are_limited_and_come_back() {
    let sim = Sim::new("h200@13.0").unwrap();
    let stale = sim.api().unwrap();
    let clone = sim.clone();
    drop(sim);
    let mut version = 0;
    unsafe {
        let code = stale.cuDriverGetVersion(&mut version).unwrap();
        assert_eq!((code, version), (CUresult::CUDA_SUCCESS, 13000));
        drop(clone);
        let code = stale.cuDriverGetVersion(&mut version).unwrap();
        assert_eq!(code, CUresult::CUDA_ERROR_DEINITIALIZED);
        assert_eq!(stale.cuInit(0).unwrap(), CUresult::CUDA_ERROR_DEINITIALIZED);
    }

    let all: Vec<Sim> = (0..MAX_DRIVERS)
        .map(|_| Sim::new("t4@11.4").unwrap())
        .collect();
    assert!(matches!(
        Sim::new("t4@11.4"),
        Err(Error::TooManyDrivers { limit: MAX_DRIVERS })
    ));
    for (index, sim) in all.iter().enumerate() {
        let api = sim.api().unwrap();
        let initialised = unsafe { api.cuInit(0) }.unwrap();
        assert_eq!(initialised, CUresult::CUDA_SUCCESS, "driver {index}");
    }
    drop(all);
    Sim::new("t4@11.4").unwrap();
}
