//! The record of a claim: who holds a name, in 64 bytes.

use super::plan_text::check_of;

/// Bytes of a record.
pub(super) const LENGTH: usize = 64;

const MAGIC: [u8; 4] = *b"CGC1";

/// The process that holds a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// The start of the process, in the kernel's ticks since its own: another process with this number has another.
    pub(crate) started: u64,
    /// Stands for the namespaces that the number and the start are of.
    pub(crate) namespace: u64,
    /// Seconds from 1970 to the claim.
    pub(crate) since: u64,
    /// The plan whose SMs it took last.
    pub(crate) generation: u64,
    /// The plan for which it left its other SMs; 0 for none.
    pub(crate) left_for: u64,
    /// What keeps it from leaving SMs, if something does.
    pub(crate) hindrance: Hindrance,
}

impl Holder {
    /// Returns whether both are the same process.
    pub(super) fn is_same_process(&self, other: &Self) -> bool {
        let process = |one: &Self| (one.pid, one.started, one.namespace);
        process(self) == process(other)
    }
}

/// What keeps a process from leaving SMs, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hindrance {
    #[default]
    None,
    /// A handle, a stream or something made of the old context.
    InUse,
    /// Work that was submitted before.
    Working,
    /// A capture.
    InCapture,
    /// The driver refused the new context, or something else failed.
    Failed,
}

const HINDRANCES: [Hindrance; 5] = [
    Hindrance::None,
    Hindrance::InUse,
    Hindrance::Working,
    Hindrance::InCapture,
    Hindrance::Failed,
];

/// The contents of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Nobody has the name, and all that had it were done with it.
    Clear,
    /// This process has it, or had it and did not give it back.
    Of(Holder),
    /// None of this version's.
    Damaged,
}

impl Record {
    pub(super) fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let Self::Of(holder) = self else {
            return bytes;
        };
        let numbers = [
            u64::from(holder.pid),
            holder.started,
            holder.namespace,
            holder.since,
            holder.generation,
            holder.left_for,
        ];
        let hindrance = HINDRANCES.iter().position(|one| *one == holder.hindrance);
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = hindrance.unwrap_or_default() as u8;
        for (place, number) in bytes[8..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let check = check_of(&bytes[..LENGTH - 8]);
        bytes[LENGTH - 8..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub(super) fn of_bytes(bytes: &[u8; LENGTH]) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Clear;
        }
        let mut numbers = [0; 6];
        for (number, place) in numbers.iter_mut().zip(bytes[8..].chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(place);
            *number = u64::from_le_bytes(eight);
        }
        let [pid, started, namespace, since, generation, left_for] = numbers;
        let hindrance = HINDRANCES.get(usize::from(bytes[4]));
        let record = Self::Of(Holder {
            pid: pid as u32,
            started,
            namespace,
            since,
            generation,
            left_for,
            hindrance: hindrance.copied().unwrap_or_default(),
        });
        // As for the plan: nothing is read that would not have been written.
        if record.to_bytes() == *bytes {
            record
        } else {
            Self::Damaged
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder() -> impl Strategy<Value = Holder> {
        let numbers = any::<(u32, u64, u64, u64, u64, u64)>();
        (numbers, 0..HINDRANCES.len()).prop_map(
            |((pid, started, namespace, since, generation, left_for), hindrance)| Holder {
                pid,
                started,
                namespace,
                since,
                generation,
                left_for,
                hindrance: HINDRANCES[hindrance],
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(holder in holder()) {
            let record = Record::Of(holder);
            prop_assert_eq!(Record::of_bytes(&record.to_bytes()), record);
        }

        #[test]
        fn no_changed_byte_goes_unseen(holder in holder(), at in 0..LENGTH, change in 1u8..) {
            let mut bytes = Record::Of(holder).to_bytes();
            bytes[at] ^= change;
            prop_assert_eq!(Record::of_bytes(&bytes), Record::Damaged);
        }

        #[test]
        fn other_bytes_are_damage(bytes in prop::collection::vec(any::<u8>(), LENGTH)) {
            let bytes: [u8; LENGTH] = bytes.try_into().unwrap();
            prop_assert!(matches!(Record::of_bytes(&bytes), Record::Damaged | Record::Clear));
        }
    }

    #[test]
    fn zeros_are_a_name_that_nobody_had() {
        assert_eq!(Record::of_bytes(&[0; LENGTH]), Record::Clear);
        assert_eq!(Record::Clear.to_bytes(), [0; LENGTH]);
    }
}
