//! Reading and writing of injections as text, for the environment and for people.

use std::{fmt, path::Path, str::FromStr, time::Duration};

use cuda_green_sys::CUresult;

use super::{Effect, FAULTS_VARIABLE, Fill, Injection, Mps};
use crate::error::Error;

impl Injection {
    /// Reads the injections of [`FAULTS_VARIABLE`].
    pub(crate) fn from_env() -> Result<Vec<Self>, Error> {
        let Some(value) = std::env::var_os(FAULTS_VARIABLE) else {
            return Ok(Vec::new());
        };
        list(&value.to_string_lossy())
    }
}

/// Reads injections that are separated by `;`.
fn list(text: &str) -> Result<Vec<Injection>, Error> {
    text.split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect()
}

/// Reads an error code by its name, with or without `CUDA_ERROR_`, or by its number.
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
            .ok_or_else(|| invalid("it has no `=`"))?;
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
            let fill =
                fill.ok_or_else(|| invalid("give the memory as `90%` or as a number of bytes"))?;
            if calls.is_some() {
                return Err(invalid(
                    "memory is limited from the start, so it takes no `#`",
                ));
            }
            Self {
                effect: Effect::Full(fill),
                ..Self::memory_full_at(0)
            }
        } else if let Some(ordinal) = what.strip_prefix("device") {
            let ordinal = ordinal
                .parse()
                .map_err(|_| invalid("name the device by its number, such as `device0`"))?;
            if effect != "lost" {
                return Err(invalid("a device can only be `lost`"));
            }
            Self::lose_device(ordinal)
        } else if what == "mps" {
            let mps = match effect.strip_suffix('%') {
                Some(percent) => percent
                    .parse()
                    .ok()
                    .filter(|percent| (1..=100).contains(percent))
                    .map(Self::under_mps),
                None => effect
                    .parse()
                    .ok()
                    .filter(|sms: &u32| *sms > 0 && sms.is_multiple_of(2))
                    .map(Self::in_static_partition),
            };
            if calls.is_some() {
                return Err(invalid(
                    "a process is under MPS from the start, so it takes no `#`",
                ));
            }
            return mps.ok_or_else(|| {
                invalid("give MPS a percentage from `1%` to `100%`, or an even number of SMs")
            });
        } else if what == "sms" {
            if calls.is_some() || !Path::new(effect).is_absolute() {
                return Err(invalid(
                    "give the SMs' file by an absolute path, without `#`",
                ));
            }
            return Ok(Self::with_shared_sms(effect));
        } else if what == "green" {
            if effect != "everywhere" {
                return Err(invalid("a green context can only run `everywhere`"));
            }
            Self::run_everywhere()
        } else {
            let effect = match (code(effect), duration(effect)) {
                (Some(code), _) => Effect::Fail(code),
                (None, Some(delay)) => Effect::Delay(delay),
                (None, None) => {
                    return Err(invalid(
                        "after `=`, give an error's name or number, or a time such as `20ms`",
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
                nth.ok_or_else(|| invalid("after `#`, give a call's number, from 1"))?;
            injection.onwards = onwards;
        }
        Ok(injection)
    }
}

/// Writes the text form.
impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.effect, self.entry_point) {
            (Effect::Full(Fill::Percent(percent)), _) => return write!(f, "memory={percent}%"),
            (Effect::Full(Fill::Bytes(bytes)), _) => return write!(f, "memory={bytes}"),
            (Effect::Mps(Mps::Percent(percent)), _) => return write!(f, "mps={percent}%"),
            (Effect::Mps(Mps::Partition(sms)), _) => return write!(f, "mps={sms}"),
            (Effect::SharedSms(file), _) => return write!(f, "sms={}", file.display()),
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
            ("mps=75%", "mps=75%"),
            ("mps=64", "mps=64"),
            ("sms=/dev/shm/x", "sms=/dev/shm/x"),
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
            ("mps=on", "percentage"),
            ("mps=0%", "percentage"),
            ("mps=0", "even number"),
            ("mps=63", "even number"),
            ("sms=x", "absolute path"),
            ("sms#2=/x", "absolute path"),
            ("mps=101%", "percentage"),
            ("mps#2=50%", "from the start"),
            ("cuInit=everywhere", "error's name"),
        ] {
            let error = text.parse::<Injection>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
