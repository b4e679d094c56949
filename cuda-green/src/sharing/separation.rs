//! The result of the test whether the groups of a split are apart among processes, and its file beside the plan.
//!
//! NVIDIA promises that the groups of a split are apart within one call only. That the same split gives the same groups in
//! every process is measured, and tested on each device, driver and split. The result holds for all plans of that split.

use std::fmt;

#[cfg(target_os = "linux")]
use super::agreed_plan::AgreedPlan;

/// The knowledge whether the partitions of a plan are apart among processes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Separation {
    /// Tested on this device, with this driver and split: blocks that fill all groups of the split, shared out between two
    /// processes in every way that matters, were on the device at once.
    Apart,
    /// Tested, and some of these blocks were never on the device at once: SMs are shared in time, and nothing is isolated, unless
    /// other work kept the SMs busy during the test.
    Failed {
        /// The groups whose blocks were not.
        reason: String,
    },
    /// Not tested.
    NotTested {
        /// The reason, and what to do.
        reason: String,
    },
}

impl Separation {
    /// Returns whether the partitions were seen to be apart.
    pub fn is_apart(&self) -> bool {
        *self == Self::Apart
    }
}

impl fmt::Display for Separation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart => f.write_str("tested: partitions of two processes are apart"),
            Self::Failed { reason } => write!(
                f,
                "tested: partitions of two processes are NOT apart, their SMs are shared in time, and nothing is isolated ({reason})"
            ),
            Self::NotTested { reason } => {
                write!(
                    f,
                    "not tested whether partitions of two processes are apart: {reason}"
                )
            }
        }
    }
}

/// The reason where processes take turns.
pub(crate) const WITHOUT_MPS: &str =
    "without MPS processes take turns on all SMs, and nothing is kept apart";
/// The reason where no program was given.
pub(crate) const NO_PARTNER: &str = "the process that made the plan had no program for the second process \
     (`SharedPlan::tested_by`, CUDA_GREEN_TESTER); `cuda-green check --processes` tests this device";

#[cfg(target_os = "linux")]
pub(crate) use file::{keep, kept, kept_for};

#[cfg(target_os = "linux")]
mod file {
    use std::{
        fs::{self, OpenOptions},
        io::{self, Read, Write},
        os::unix::fs::OpenOptionsExt,
        path::Path,
        process,
    };

    use super::{
        super::folder::{default_path, distrust_file},
        AgreedPlan, NO_PARTNER, Separation, WITHOUT_MPS,
    };
    use crate::{
        sharing::{folder::Folder, plan_text::check_of, shared_device::DeviceUuid},
        sharing_error::SharingError,
    };

    const APART: &str = "result apart";
    const FAILED: &str = "result failed ";
    const UNTESTED: &str = "result none ";
    /// The most bytes of a file.
    const LONGEST: u64 = 64 << 10;

    /// Returns the name of the file.
    fn name(plan: &AgreedPlan) -> String {
        DeviceUuid(plan.key.device).file("tested")
    }

    /// Returns what a test holds for, as text: the plan's facts and split, whatever its names, its number, the system's start, and
    /// the MPS daemon.
    fn tested(plan: &AgreedPlan) -> String {
        let mut split = AgreedPlan {
            generation: 0,
            partitions: Vec::new(),
            ..plan.clone()
        };
        split.key.boot = "any".to_owned();
        split.key.server = plan.key.server.map(|_| (0, 0));
        split.to_text()
    }

    /// Keeps the result of a test beside the plan; of one that failed to run, the reason, unless an earlier one showed that the
    /// groups are apart.
    pub(crate) fn keep(
        folder: &Path,
        plan: &AgreedPlan,
        result: &Separation,
    ) -> Result<(), SharingError> {
        let result = match result {
            Separation::Apart => APART.to_owned(),
            Separation::Failed { reason } => format!("{FAILED}{}", reason.replace('\n', " ")),
            Separation::NotTested { reason } if [NO_PARTNER, WITHOUT_MPS].contains(&&**reason) => {
                return Ok(());
            }
            Separation::NotTested { reason } => format!("{UNTESTED}{}", reason.replace('\n', " ")),
        };
        let folder = Folder::open(folder)?;
        if result.starts_with(UNTESTED) && kept(&folder, plan).is_apart() {
            return Ok(());
        }
        let body = format!("{}{result}\n", tested(plan));
        let text = format!("{body}check {:016x}\n", check_of(body.as_bytes()));
        let name = name(plan);
        let beside = folder.within(&format!("{name}.{}.new", process::id()));
        let _ = fs::remove_file(&beside); // of a killed process of this number
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&beside)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&beside, folder.within(&name)));
        written.map_err(|error| {
            let _ = fs::remove_file(&beside);
            SharingError::Io {
                what: "writing",
                path: folder.shown(&name),
                error,
            }
        })
    }

    /// Returns the result that is kept in this folder, or in that of the environment, for a plan that is not made yet.
    pub(crate) fn kept_for(
        folder: Option<&Path>,
        under_mps: bool,
        plan: &AgreedPlan,
    ) -> Separation {
        let folder = match folder {
            Some(folder) => Folder::open(folder),
            None => default_path(under_mps).and_then(|path| Folder::open(&path)),
        };
        match folder {
            Ok(folder) => kept(&folder, plan),
            Err(error) => Separation::NotTested {
                reason: error.to_string(),
            },
        }
    }

    /// Returns the result that is kept beside a plan.
    pub(crate) fn kept(folder: &Folder, plan: &AgreedPlan) -> Separation {
        let not_tested = |reason: String| Separation::NotTested { reason };
        if plan.key.server.is_none() {
            return not_tested(WITHOUT_MPS.to_owned());
        }
        match read(folder, &name(plan)) {
            Ok(None) => not_tested(NO_PARTNER.to_owned()),
            Ok(Some(text)) => understood(&text, plan).unwrap_or_else(|| {
                not_tested(format!(
                    "the result in {} is of another driver or split, or damaged; remove it, and make the plan again",
                    folder.shown(&name(plan)).display()
                ))
            }),
            Err(error) => not_tested(format!(
                "{} cannot be read: {error}",
                folder.shown(&name(plan)).display()
            )),
        }
    }

    fn read(folder: &Folder, name: &str) -> io::Result<Option<String>> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(folder.within(name));
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if let Some(problem) = distrust_file(&file.metadata()?) {
            return Err(io::Error::other(problem));
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text)?;
        Ok(Some(text))
    }

    /// Reads the result, if it is one of this plan's split.
    fn understood(text: &str, plan: &AgreedPlan) -> Option<Separation> {
        let result = text.strip_prefix(&tested(plan))?;
        let (result, check) = result.split_once('\n')?;
        let body = format!("{}{result}\n", tested(plan));
        if check != format!("check {:016x}\n", check_of(body.as_bytes())) {
            return None;
        }
        if result == APART {
            return Some(Separation::Apart);
        }
        let failed = result
            .strip_prefix(FAILED)
            .map(|reason| Separation::Failed {
                reason: reason.to_owned(),
            });
        failed.or_else(|| {
            let reason = result.strip_prefix(UNTESTED)?.to_owned();
            Some(Separation::NotTested { reason })
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::sharing::{plan_text::tests::example, store::tests::temporary};

        #[test]
        #[cfg_attr(miri, ignore)] // opens folders
        fn a_result_is_kept_for_its_split_only() {
            let base = temporary("tested");
            let path = base.join("shared");
            let folder = Folder::open(&path).unwrap();
            let mut plan = example();
            plan.key.server = Some((1, 2));
            let not = |plan: &AgreedPlan, words: &str| match kept(&folder, plan) {
                Separation::NotTested { reason } => assert!(reason.contains(words), "{reason}"),
                other => panic!("{other:?}"),
            };
            not(&plan, "tested_by");
            let failed = Separation::Failed {
                reason: "groups 1\n2".to_owned(),
            };
            keep(&path, &plan, &failed).unwrap();
            let shown = Separation::Failed {
                reason: "groups 1 2".to_owned(),
            };
            assert_eq!(kept(&folder, &plan), shown);
            keep(&path, &plan, &Separation::Apart).unwrap();
            assert!(kept(&folder, &plan).is_apart());
            let nothing = |reason: &str| Separation::NotTested {
                reason: reason.to_owned(),
            };
            for reason in [NO_PARTNER, WITHOUT_MPS, "it crashed"] {
                keep(&path, &plan, &nothing(reason)).unwrap();
                assert!(kept(&folder, &plan).is_apart(), "the earlier result stays");
            }
            assert!(kept_for(Some(&path), true, &plan).is_apart());
            keep(&path, &plan, &failed).unwrap();
            keep(&path, &plan, &nothing(NO_PARTNER)).unwrap();
            assert_eq!(kept(&folder, &plan), shown);
            keep(&path, &plan, &nothing("it crashed")).unwrap();
            assert_eq!(kept(&folder, &plan), nothing("it crashed"));
            keep(&path, &plan, &Separation::Apart).unwrap();

            // Other names of the same split, after a restart, under another daemon.
            let mut later = plan.clone();
            later.generation += 7;
            later.partitions.truncate(1);
            later.key.boot = "another".to_owned();
            later.key.server = Some((3, 4));
            assert!(kept(&folder, &later).is_apart());
            // Another driver, fewer SMs, no MPS.
            let mut other = plan.clone();
            other.key.driver += 10;
            not(&other, "another driver or split");
            let mut other = plan.clone();
            other.key.sm_count -= 2;
            not(&other, "another driver or split");
            let mut other = plan.clone();
            other.key.server = None;
            not(&other, "take turns");

            let file = folder.within(&name(&plan));
            let text = fs::read_to_string(&file).unwrap();
            for damaged in [
                text.replace("result apart", "result failed x"),
                text[..text.len() - 2].to_owned(),
                format!("{text}x"),
                String::new(),
            ] {
                fs::write(&file, damaged).unwrap();
                not(&plan, "damaged");
            }
            fs::remove_dir_all(&base).unwrap();
        }
    }
}
