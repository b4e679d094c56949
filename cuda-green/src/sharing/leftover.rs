//! Names whose lock is free while their record is not: the judgement whether their SMs may be given on.

use super::{
    mps::Clients,
    process::Life,
    record::{Holder, Record},
};

/// The judgement on a record whose lock is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    /// The SMs may be given on.
    Clear,
    /// They may not, for this reason.
    Dirty(String),
}

/// Judges a record. `clients` says what the MPS server knows, and is asked only where that matters.
pub(super) fn judge(
    record: Record,
    own_pid: u32,
    life: impl FnOnce(&Holder) -> Life,
    clients: impl FnOnce() -> Clients,
) -> Leftover {
    let holder = match record {
        Record::Clear => return Leftover::Clear,
        Record::Of(holder) => holder,
        Record::Damaged => {
            return Leftover::Dirty(
                "its record is damaged; end all processes that share the device, and remove the files of the plan and of the claims"
                    .to_owned(),
            );
        }
    };
    let dirty = |reason: &str| Leftover::Dirty(reason.to_owned());
    let life = life(&holder);
    match life {
        // It had the name before it executed itself again: another program would have another start.
        Life::Alive if holder.pid == own_pid => {}
        Life::Alive => return dirty("that process still runs; end it"),
        Life::Unknown => {
            return dirty(
                "its number is of another namespace (a container's), so whether it runs cannot be seen from here; join from there, or end all processes that share the device and remove the files of the plan and of the claims",
            );
        }
        Life::Gone | Life::Replaced => {}
    }
    let count = |listed: &[u32], pid| listed.iter().filter(|one| **one == pid).count();
    // After a container's start the number may be this process's.
    let own_entries = usize::from(holder.pid == own_pid);
    match clients() {
        // Its files are closed, and with them all that it had of the driver.
        Clients::WithoutServer => Leftover::Clear,
        Clients::Listed(listed) if !listed.contains(&own_pid) => dirty(
            "the MPS server does not list this process, so the numbers of processes in its list are not those seen here (containers); start both in one namespace of processes",
        ),
        Clients::Listed(listed) if count(&listed, holder.pid) > own_entries => match life {
            Life::Replaced => dirty(
                "the MPS server lists its number, which may be that of another process by now; end that one, or wait",
            ),
            _ => dirty("the MPS server still lists it, so its work may not be over; wait"),
        },
        Clients::Listed(_) => Leftover::Clear,
        Clients::Unknown(reason) => Leftover::Dirty(format!(
            "whether the MPS server is rid of it is not known: {reason}; `nvidia-cuda-mps-control` must be in PATH and reach the daemon; if that has ended for good, remove the files of the plan and of the claims"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharing::record::Hindrance;

    const OWN: u32 = 7;
    const DEAD: Holder = Holder {
        pid: 40,
        started: 1,
        namespace: 2,
        since: 3,
        generation: 4,
        left_for: 0,
        hindrance: Hindrance::None,
    };

    fn judged(life: Life, clients: Clients) -> bool {
        judge(Record::Of(DEAD), OWN, |_| life, || clients) == Leftover::Clear
    }

    #[test]
    fn sms_are_given_on_once_nothing_can_run_there() {
        let listed = |pids: &[u32]| Clients::Listed(pids.to_vec());
        for life in [Life::Alive, Life::Unknown] {
            for clients in [Clients::WithoutServer, listed(&[OWN])] {
                assert!(!judged(life, clients));
            }
        }
        // This process, before it executed itself again: the server may have two entries of it for a while.
        let again = |clients: &[u32]| {
            let before = Record::Of(Holder { pid: OWN, ..DEAD });
            judge(before, OWN, |_| Life::Alive, || listed(clients)) == Leftover::Clear
        };
        assert!(again(&[OWN]));
        assert!(!again(&[OWN, OWN]));
        assert!(judged(Life::Gone, Clients::WithoutServer));
        assert!(judged(Life::Gone, listed(&[OWN, 41])));
        assert!(!judged(Life::Gone, listed(&[OWN, 40])));
        // The number is another process's by now, and which of them the server means is not known.
        assert!(!judged(Life::Replaced, listed(&[OWN, 40])));
        assert!(judged(Life::Replaced, listed(&[OWN, 41])));
        // The number is this process's by now.
        let own = |clients: &[u32]| {
            let dead = Record::Of(Holder { pid: OWN, ..DEAD });
            judge(dead, OWN, |_| Life::Replaced, || listed(clients)) == Leftover::Clear
        };
        assert!(own(&[41, OWN]));
        assert!(!own(&[OWN, 41, OWN]));
        // A list of other numbers says nothing.
        assert!(!judged(Life::Gone, listed(&[1, 2])));
        assert!(!judged(Life::Gone, Clients::Unknown("no program".into())));
        assert!(!judged(
            Life::Replaced,
            Clients::Unknown("no program".into())
        ));
    }

    #[test]
    fn a_clear_record_asks_nobody_and_a_damaged_one_is_never_given_on() {
        let nobody = |_: &Holder| -> Life { panic!("asked") };
        let nothing = || -> Clients { panic!("asked") };
        assert_eq!(judge(Record::Clear, OWN, nobody, nothing), Leftover::Clear);
        let damaged = judge(
            Record::Damaged,
            OWN,
            |_| Life::Gone,
            || Clients::WithoutServer,
        );
        assert_ne!(damaged, Leftover::Clear);
    }
}
