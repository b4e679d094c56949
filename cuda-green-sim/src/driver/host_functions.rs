//! A client's host functions, which run in a stream's order.

use std::cell::Cell;

use cuda_green_sys::{CUhostFn, CUresult, CUstream_st};

use super::{Driver, stream_actions::Action};
use crate::c_args::{Answer, HostFunction, Raw};
use std::ffi::c_void;

thread_local! {
    /// The number of the driver whose host function this thread runs; 0 if it runs none.
    static WITHIN: Cell<u64> = const { Cell::new(0) };
}

impl Driver {
    /// Runs the function during the launch, as a kernel's: the call returns after the function has, so a function
    /// that waits for its caller never returns.
    pub(crate) fn cuLaunchHostFunc(
        &self,
        stream: Raw<CUstream_st>,
        function: CUhostFn,
        data: Raw<c_void>,
    ) -> Answer {
        let state = self.enter()?;
        let lane = self.lane(&state, stream.handle())?;
        let function = HostFunction::new(function, data)?;
        self.enqueue(state, lane, Action::Call(function))
    }

    /// Runs a host function on a thread of the driver.
    pub(super) fn call_host(&self, function: &HostFunction) -> Answer {
        let number = self.number;
        std::thread::scope(|scope| {
            let run = move || {
                WITHIN.set(number);
                function.call();
            };
            std::thread::Builder::new()
                .spawn_scoped(scope, run)
                .ok()
                .and_then(|thread| thread.join().ok())
                .ok_or(CUresult::CUDA_ERROR_OPERATING_SYSTEM)
        })
    }

    /// Refuses calls from within a host function, which must not call the driver (11.4 header and later).
    pub(super) fn not_in_a_host_function(&self) -> Answer {
        if WITHIN.get() == self.number {
            Err(CUresult::CUDA_ERROR_NOT_PERMITTED)
        } else {
            Ok(())
        }
    }
}
