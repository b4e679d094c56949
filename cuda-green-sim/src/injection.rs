//! Faults on demand: calls that fail or are slow, memory that runs out, a device that disappears.
//!
//! A fault happens before the call has any effect, as a call does that the driver refuses.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cuda_green_sys::{CUresult, ENTRY_POINTS};

use crate::Error;

/// The environment variable with the faults of every simulated driver that this process makes:
/// [injections](Injection) in their text form, separated by `;`.
pub const FAULTS_VARIABLE: &str = "CUDA_GREEN_SIM_FAULTS";

/// A fault that is to happen. [`Sim::inject`](crate::Sim::inject) makes it so.
///
/// Each has a text form, for the environment variable [`FAULTS_VARIABLE`] and for [`str::parse`]:
///
/// | text | what happens |
/// |---|---|
/// | `cuGreenCtxCreate#3=OUT_OF_MEMORY` | its third call fails with that code, a name or a number |
/// | `cuMemAlloc#3+=2` | its third call and all later ones fail |
/// | `cuStreamSynchronize=700` | all of its calls fail |
/// | `*#250=999` | the 250th call fails, whichever it is |
/// | `cuInit=1500ms` | all of its calls are slow; `s`, `ms` and `us` are known |
/// | `memory=90%`, `memory=4096` | nothing is allocated beyond this fill of each device, in percent or bytes |
/// | `device0#500=lost` | that device disappears at the 500th call |
/// | `green#2=everywhere` | the second green context that is made runs on all SMs, whatever it says |
///
/// Calls are counted from the moment of the injection. A code that stays on a real driver (an illegal
/// address, say) stays here too: every later call answers it.
///
/// ```
/// use cuda_green_sim::{Injection, Sim};
///
/// let sim = Sim::new("2xh200@13.0")?;
/// sim.inject("cuGreenCtxCreate#2=OUT_OF_MEMORY".parse()?);
/// sim.inject(Injection::lose_device(1).at(100));
/// # Ok::<(), cuda_green_sim::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// `None` for any.
    entry_point: Option<&'static str>,
    /// The first call that it concerns, from 1.
    nth: u64,
    /// Whether all later calls are concerned, too.
    onwards: bool,
    effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Effect {
    Fail(CUresult),
    Delay(Duration),
    LoseDevice(u32),
    Everywhere,
    Full(Fill),
}

/// How much of a device's memory can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Percent(u32),
    Bytes(u64),
}

impl Fill {
    /// The fill in bytes of a device with this much memory.
    pub(crate) fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => {
                (u128::from(total) * u128::from(percent) / 100).min(u128::from(total)) as u64
            }
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Injection {
    /// Every call of an entry point fails with a code; [`at`](Self::at) and [`onwards`](Self::onwards)
    /// say which calls instead. The entry point may be named with or without `_v2`; `*` is any.
    ///
    /// # Errors
    /// [`Error::InvalidInjection`] where no entry point has that name.
    pub fn fail(entry_point: &str, code: CUresult) -> Result<Self, Error> {
        Self::on_calls(entry_point, Effect::Fail(code))
    }

    /// Every call of an entry point takes this much longer, in real time and in virtual time.
    ///
    /// # Errors
    /// As [`fail`](Self::fail).
    pub fn slow(entry_point: &str, delay: Duration) -> Result<Self, Error> {
        Self::on_calls(entry_point, Effect::Delay(delay))
    }

    /// A device disappears at the next call, or at that of [`at`](Self::at): whatever has to do with it
    /// answers `CUDA_ERROR_DEVICE_UNAVAILABLE` from then on. Other devices stay.
    pub fn lose_device(ordinal: u32) -> Self {
        Self {
            entry_point: None,
            nth: 1,
            onwards: false,
            effect: Effect::LoseDevice(ordinal),
        }
    }

    /// Every green context that is made runs on all SMs of its device, while the driver says what it would
    /// have said: a driver that does not keep its word. [`at`](Self::at) and [`onwards`](Self::onwards)
    /// count the green contexts made, and say which. So a test can show that a violation is found.
    ///
    /// (A real driver does the like to resources of two splits: it tells 64 SMs, and runs on 32; measured on
    /// an H200, driver 580.)
    pub fn run_everywhere() -> Self {
        Self {
            entry_point: None,
            nth: 1,
            onwards: true,
            effect: Effect::Everywhere,
        }
    }

    /// Nothing is allocated any more that would bring a device's memory in use above this many bytes.
    /// `cuMemGetInfo` tells the whole of it, as where memory is there but fragmented.
    pub fn memory_full_at(bytes: u64) -> Self {
        Self {
            entry_point: None,
            nth: 1,
            onwards: true,
            effect: Effect::Full(Fill::Bytes(bytes)),
        }
    }

    /// Only the nth call from the injection on, where 1 is the next.
    #[must_use]
    pub fn at(mut self, nth: u64) -> Self {
        self.nth = nth.max(1);
        self.onwards = false;
        self
    }

    /// The nth call from the injection on, and all later ones.
    #[must_use]
    pub fn onwards(mut self, nth: u64) -> Self {
        self.nth = nth.max(1);
        self.onwards = true;
        self
    }

    fn on_calls(name: &str, effect: Effect) -> Result<Self, Error> {
        let entry_point = match name {
            "*" => None,
            name => Some(symbol(name).ok_or_else(|| Error::InvalidInjection {
                text: name.to_owned(),
                reason: "the simulated driver has no entry point of this name".to_owned(),
            })?),
        };
        Ok(Self {
            entry_point,
            nth: 1,
            onwards: true,
            effect,
        })
    }

    /// Counts one more of what it counts, and says whether that one is concerned.
    fn counts(&self, seen: &mut u64) -> bool {
        *seen += 1;
        *seen == self.nth || (self.onwards && *seen > self.nth)
    }

    /// The fill that it limits memory to, if that is what it does.
    pub(crate) fn fill(&self) -> Option<Fill> {
        match self.effect {
            Effect::Full(fill) => Some(fill),
            _ => None,
        }
    }

    /// The injections of [`FAULTS_VARIABLE`].
    pub(crate) fn from_env() -> Result<Vec<Self>, Error> {
        let Some(value) = std::env::var_os(FAULTS_VARIABLE) else {
            return Ok(Vec::new());
        };
        list(&value.to_string_lossy())
    }
}

/// Injections, separated by `;`.
fn list(text: &str) -> Result<Vec<Injection>, Error> {
    text.split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect()
}

/// The exported symbol of an entry point by its own name or by the one that `cuGetProcAddress` knows.
fn symbol(name: &str) -> Option<&'static str> {
    let text = |symbol: &'static std::ffi::CStr| symbol.to_str().ok();
    ENTRY_POINTS
        .iter()
        .find(|entry| text(entry.symbol) == Some(name))
        .or_else(|| {
            ENTRY_POINTS
                .iter()
                .find(|entry| text(entry.proc_name) == Some(name))
        })
        .and_then(|entry| text(entry.symbol))
}

/// An error code by its name, with or without `CUDA_ERROR_`, or by its number.
fn code(text: &str) -> Option<CUresult> {
    if let Ok(number) = text.parse() {
        return Some(CUresult(number)).filter(|code| *code != CUresult::CUDA_SUCCESS);
    }
    (1..1000).map(CUresult).find(|code| {
        code.name()
            .is_some_and(|name| name == text || name.strip_prefix("CUDA_ERROR_") == Some(text))
    })
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number = number.parse().ok()?;
    match unit {
        "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        "us" => Some(Duration::from_micros(number)),
        _ => None,
    }
}

impl FromStr for Injection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |reason: &str| Error::InvalidInjection {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (what, effect) = text
            .split_once('=')
            .ok_or_else(|| invalid("there is no `=`"))?;
        let (what, effect) = (what.trim(), effect.trim());
        let (what, calls) = match what.split_once('#') {
            Some((what, calls)) => (what, Some(calls)),
            None => (what, None),
        };
        let mut injection = if what == "memory" {
            let fill = match effect.strip_suffix('%') {
                Some(percent) => percent.parse().ok().map(Fill::Percent),
                None => effect.parse().ok().map(Fill::Bytes),
            };
            let fill = fill.ok_or_else(|| invalid("memory is `90%`, or a number of bytes"))?;
            if calls.is_some() {
                return Err(invalid("memory is limited from the start, not at a call"));
            }
            Self {
                effect: Effect::Full(fill),
                ..Self::memory_full_at(0)
            }
        } else if let Some(ordinal) = what.strip_prefix("device") {
            let ordinal = ordinal
                .parse()
                .map_err(|_| invalid("a device is `device` and its number: `device0`"))?;
            if effect != "lost" {
                return Err(invalid("all that can happen to a device is `lost`"));
            }
            Self::lose_device(ordinal)
        } else if what == "green" {
            if effect != "everywhere" {
                return Err(invalid(
                    "all that can happen to a green context is `everywhere`",
                ));
            }
            Self::run_everywhere()
        } else {
            let effect = match (code(effect), duration(effect)) {
                (Some(code), _) => Effect::Fail(code),
                (None, Some(delay)) => Effect::Delay(delay),
                (None, None) => {
                    return Err(invalid(
                        "after `=` comes an error's name or number, or a time such as `20ms`",
                    ));
                }
            };
            Self::on_calls(what, effect)?
        };
        if let Some(calls) = calls {
            let (nth, onwards) = match calls.strip_suffix('+') {
                Some(nth) => (nth, true),
                None => (calls, false),
            };
            let nth = nth.parse().ok().filter(|nth| *nth > 0);
            injection.nth =
                nth.ok_or_else(|| invalid("after `#` comes a call's number, from 1"))?;
            injection.onwards = onwards;
        }
        Ok(injection)
    }
}

/// The text form.
impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.effect, self.entry_point) {
            (Effect::Full(Fill::Percent(percent)), _) => return write!(f, "memory={percent}%"),
            (Effect::Full(Fill::Bytes(bytes)), _) => return write!(f, "memory={bytes}"),
            (Effect::LoseDevice(ordinal), _) => write!(f, "device{ordinal}")?,
            (Effect::Everywhere, _) => f.write_str("green")?,
            (_, entry_point) => f.write_str(entry_point.unwrap_or("*"))?,
        }
        match (self.nth, self.onwards) {
            (1, true) => {}
            (nth, true) => write!(f, "#{nth}+")?,
            (nth, false) => write!(f, "#{nth}")?,
        }
        match &self.effect {
            Effect::Fail(code) => match code.name() {
                Some(name) => write!(f, "={name}"),
                None => write!(f, "={}", code.0),
            },
            Effect::Delay(delay) => write!(f, "={}us", delay.as_micros()),
            Effect::Everywhere => f.write_str("=everywhere"),
            _ => f.write_str("=lost"),
        }
    }
}

/// What is to happen at a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Happening {
    pub(crate) delay: Duration,
    pub(crate) lost: Vec<u32>,
    pub(crate) code: Option<CUresult>,
}

/// A driver's injections, and how many calls of its kind each has seen.
#[derive(Default)]
pub(crate) struct Injections {
    /// Whether there are any: all that a call looks at in a driver without.
    armed: AtomicBool,
    rules: Mutex<Vec<(Injection, u64)>>,
}

impl Injections {
    fn rules(&self) -> MutexGuard<'_, Vec<(Injection, u64)>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Counts a call, and says what is to happen at it. Of several codes, the first injected counts.
    pub(crate) fn at_call(&self, entry_point: &'static str) -> Option<Happening> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let mut happening = Happening::default();
        for (rule, seen) in self.rules().iter_mut() {
            let other_call = rule.entry_point.is_some_and(|name| name != entry_point);
            if other_call || rule.effect == Effect::Everywhere || !rule.counts(seen) {
                continue;
            }
            match rule.effect {
                Effect::Fail(code) => happening.code = happening.code.or(Some(code)),
                Effect::Delay(delay) => happening.delay += delay,
                Effect::LoseDevice(ordinal) => happening.lost.push(ordinal),
                // In force since the injection, and told where a green context is made.
                Effect::Full(_) | Effect::Everywhere => {}
            }
        }
        Some(happening)
    }

    /// Counts a green context that is made, and says whether it runs on all SMs.
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
    fn texts_are_read_and_written() {
        for (text, written) in [
            (
                "cuGreenCtxCreate#3=OUT_OF_MEMORY",
                "cuGreenCtxCreate#3=CUDA_ERROR_OUT_OF_MEMORY",
            ),
            (
                "cuMemAlloc#3+=2",
                "cuMemAlloc_v2#3+=CUDA_ERROR_OUT_OF_MEMORY",
            ),
            (
                "cuStreamSynchronize=700",
                "cuStreamSynchronize=CUDA_ERROR_ILLEGAL_ADDRESS",
            ),
            ("*#250=12345", "*#250=12345"),
            ("cuInit=1500ms", "cuInit=1500000us"),
            ("memory=90%", "memory=90%"),
            ("memory=4096", "memory=4096"),
            ("device0#500=lost", "device0#500=lost"),
            ("device1=lost", "device1#1=lost"),
            ("green#2=everywhere", "green#2=everywhere"),
            ("green=everywhere", "green=everywhere"),
        ] {
            let injection: Injection = text.parse().unwrap();
            assert_eq!(injection.to_string(), written);
            assert_eq!(written.parse::<Injection>().unwrap(), injection);
        }
        assert_eq!(list(" ; ").unwrap(), []);
        assert_eq!(list("cuInit=1s; *=999").unwrap().len(), 2);
    }

    #[test]
    fn bad_texts_say_why() {
        for (text, reason) in [
            ("cuInit", "no `=`"),
            ("cuNothing=2", "no entry point"),
            ("cuInit=NOTHING", "error's name"),
            ("cuInit=0", "error's name"),
            ("cuInit=5 ms", "error's name"),
            ("cuInit#0=2", "from 1"),
            ("cuInit#x=2", "from 1"),
            ("memory=lots", "number of bytes"),
            ("memory#3=1", "from the start"),
            ("deviceX=lost", "device0"),
            ("device0=2", "`lost`"),
            ("green=lost", "`everywhere`"),
            ("cuInit=everywhere", "error's name"),
        ] {
            let error = text.parse::<Injection>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn each_rule_counts_its_own_calls() {
        let injections = Injections::default();
        assert_eq!(injections.at_call("cuInit"), None);
        injections.add("cuInit#2=999".parse().unwrap());
        injections.add("*#2+=1".parse().unwrap());
        let code = |name| injections.at_call(name).unwrap().code.map(|code| code.0);
        assert_eq!(code("cuInit"), None);
        assert_eq!(code("cuDeviceGet"), Some(1));
        assert_eq!(code("cuInit"), Some(999));
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
                Some(Happening::default())
            );
        }
        let made: Vec<bool> = (0..3).map(|_| injections.runs_everywhere()).collect();
        assert_eq!(made, [false, true, false]);
    }
}
