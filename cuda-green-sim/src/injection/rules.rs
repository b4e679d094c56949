//! The injections in force in one driver, and the faults that they cause at each call.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use cuda_green_sys::CUresult;

use super::{Effect, Injection, Mps};
use crate::sync::{Mutex, MutexGuard};

/// The faults of one call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CallFaults {
    pub(crate) delay: Duration,
    pub(crate) lost: Vec<u32>,
    pub(crate) code: Option<CUresult>,
}

/// A driver's injections, and the number of matching calls that each has seen.
#[derive(Default)]
pub(crate) struct Injections {
    /// Whether there are any, which is all that a call checks in a driver without injections.
    armed: AtomicBool,
    rules: Mutex<Vec<(Injection, u64)>>,
}

impl Injections {
    fn rules(&self) -> MutexGuard<'_, Vec<(Injection, u64)>> {
        self.rules.lock()
    }

    pub(crate) fn add(&self, injection: Injection) {
        self.rules().push((injection, 0));
        self.armed.store(true, Ordering::Release);
    }

    pub(crate) fn clear(&self) {
        let mut rules = self.rules();
        rules.clear();
        self.armed.store(false, Ordering::Release);
    }

    /// Returns the injections that no call reached.
    pub(crate) fn unfired(&self) -> Vec<Injection> {
        let rules = self.rules();
        let unfired = rules.iter().filter(|(rule, seen)| *seen < rule.nth);
        unfired
            .filter(|(rule, _)| !matches!(rule.effect, Effect::Mps(_) | Effect::SharedSms(_)))
            .map(|(rule, _)| rule.clone())
            .collect()
    }

    /// Counts a call and returns its faults. Of several codes, the first injected wins.
    pub(crate) fn at_call(&self, entry_point: &'static str) -> Option<CallFaults> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let mut faults = CallFaults::default();
        for (rule, seen) in self.rules().iter_mut() {
            let other_call = rule.entry_point.is_some_and(|name| name != entry_point);
            if other_call || rule.effect == Effect::Everywhere || !rule.counts(seen) {
                continue;
            }
            match &rule.effect {
                Effect::Fail(code) => faults.code = faults.code.or(Some(*code)),
                Effect::Delay(delay) => faults.delay += *delay,
                Effect::LoseDevice(ordinal) => faults.lost.push(*ordinal),
                // In force since the injection, and applied where a green context is made.
                Effect::Full(_) | Effect::Everywhere | Effect::Mps(_) | Effect::SharedSms(_) => {}
            }
        }
        Some(faults)
    }

    /// Returns what MPS leaves the process, if it is under MPS.
    pub(crate) fn mps(&self) -> Option<Mps> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        self.rules().iter().find_map(|(rule, _)| match rule.effect {
            Effect::Mps(mps) => Some(mps),
            _ => None,
        })
    }

    /// Returns the file of the SMs that processes share, if there is one.
    pub(crate) fn shared_sms(&self) -> Option<PathBuf> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        self.rules()
            .iter()
            .find_map(|(rule, _)| match &rule.effect {
                Effect::SharedSms(file) => Some(file.clone()),
                _ => None,
            })
    }

    /// Counts a new green context, and returns whether it runs on all SMs.
    pub(crate) fn runs_everywhere(&self) -> bool {
        if !self.armed.load(Ordering::Acquire) {
            return false;
        }
        let mut everywhere = false;
        for (rule, seen) in self.rules().iter_mut() {
            if rule.effect == Effect::Everywhere {
                everywhere |= rule.counts(seen);
            }
        }
        everywhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_counts_its_own_calls() {
        let injections = Injections::default();
        assert_eq!(injections.at_call("cuInit"), None);
        injections.add("cuInit#2=999".parse().unwrap());
        injections.add("*#2+=1".parse().unwrap());
        let code = |name| injections.at_call(name).unwrap().code.map(|code| code.0);
        assert_eq!(injections.unfired().len(), 2);
        assert_eq!(code("cuInit"), None);
        assert_eq!(injections.unfired().len(), 2);
        assert_eq!(code("cuDeviceGet"), Some(1));
        assert_eq!(injections.unfired(), ["cuInit#2=999".parse().unwrap()]);
        assert_eq!(code("cuInit"), Some(999));
        assert_eq!(injections.unfired(), []);
        assert_eq!(code("cuInit"), Some(1));
        injections.clear();
        assert_eq!(injections.at_call("cuInit"), None);
    }

    #[test]
    fn green_contexts_are_counted_apart_from_calls() {
        let injections = Injections::default();
        assert!(!injections.runs_everywhere());
        injections.add("green#2=everywhere".parse().unwrap());
        for _ in 0..3 {
            assert_eq!(
                injections.at_call("cuGreenCtxCreate"),
                Some(CallFaults::default())
            );
        }
        assert_eq!(injections.unfired().len(), 1);
        injections.add("mps=75%".parse().unwrap());
        let made: Vec<bool> = (0..3).map(|_| injections.runs_everywhere()).collect();
        assert_eq!(injections.unfired(), []);
        assert_eq!(made, [false, true, false]);
    }
}
