//! The beginning of every call: it is counted, traced, and made to fail if a fault was injected for it.

use std::sync::atomic::Ordering;

use super::Driver;
use crate::{
    c_args::Answer,
    injection::{Fill, Injection},
    leaks::MadeAt,
};

impl Driver {
    pub(crate) fn inject(&self, injection: Injection) {
        match injection.fill() {
            Some(fill) => self.memory().limit(fill),
            None => self.injections.add(injection),
        }
    }

    /// Reverts [`inject`](Self::inject), except for lost devices.
    pub(crate) fn clear_injections(&self) {
        self.injections.clear();
        self.memory().limit(Fill::Percent(100));
    }

    /// Returns the injections that never took effect.
    pub(crate) fn unfired_injections(&self) -> Vec<Injection> {
        self.injections.unfired()
    }

    pub(crate) fn start_trace(&self) {
        *self.trace.lock() = Some(Vec::new());
        self.tracing.store(true, Ordering::Release);
    }

    pub(crate) fn take_trace(&self) -> Vec<MadeAt> {
        self.tracing.store(false, Ordering::Release);
        let mut trace = self.trace.lock();
        trace.take().unwrap_or_default()
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Begins a call: counts it, and applies the faults that were injected for it.
    pub(crate) fn begin_call(&self, entry_point: &'static str) -> Answer {
        self.not_in_a_host_function()?;
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        MadeAt::enter(entry_point, call);
        if self.tracing.load(Ordering::Acquire)
            && let Some(trace) = &mut *self.trace.lock()
        {
            trace.push(MadeAt::now());
        }
        let Some(faults) = self.injections.at_call(entry_point) else {
            return Ok(());
        };
        let any_lost = !faults.lost.is_empty();
        for ordinal in faults.lost {
            let bit = 1_u32.checked_shl(ordinal).unwrap_or(0);
            self.lost.fetch_or(bit, Ordering::Relaxed);
        }
        if any_lost {
            self.stop_lost();
        }
        if !faults.delay.is_zero() {
            // No lock is held, so only this call is slow.
            std::thread::sleep(faults.delay);
            self.advance(faults.delay);
        }
        let Some(code) = faults.code else {
            return Ok(());
        };
        if code.is_sticky() {
            self.fault(code);
        }
        Err(code)
    }
}
