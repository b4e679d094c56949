//! `CUDA_VISIBLE_DEVICES`: how many of the devices a process may use.
//!
//! By the CUDA programming guide (environment variables): indices or UUIDs, separated by commas; the first that is
//! invalid hides itself and all after it; an empty list hides all. All simulated devices are alike, so only their
//! number is told, and not their order. That a device named twice counts as invalid is not in the guide.

/// The name of the variable.
pub(crate) const VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// How many of `count` devices the list names.
pub(crate) fn count(list: &str, count: u32) -> u32 {
    let mut named = Vec::new();
    for entry in list.split(',') {
        match device(entry.trim(), count) {
            Some(device) if !named.contains(&device) => named.push(device),
            _ => break,
        }
    }
    named.len() as u32
}

fn device(entry: &str, count: u32) -> Option<u32> {
    if let Some(uuid) = entry.strip_prefix("GPU-") {
        // The last byte of a simulated UUID is the ordinal; the others are the same for all of a driver.
        let digits: String = uuid.chars().filter(|c| *c != '-').collect();
        let last = digits.get(30..32).filter(|_| digits.len() == 32)?;
        return u32::from_str_radix(last, 16)
            .ok()
            .filter(|one| *one < count);
    }
    entry.parse().ok().filter(|one| *one < count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_ends_at_the_first_that_is_invalid() {
        for (list, visible) in [
            ("", 0),
            ("0", 1),
            ("1,0", 2),
            (" 0 , 1 ", 2),
            ("-1", 0),
            ("0,-1,1", 1),
            ("0,4,1", 1),
            ("0,0", 1),
            ("0,1,2,3", 4),
            ("NoDevFiles", 0),
            ("GPU-47524545-4e53-494d-6832-303000000002", 1),
            ("GPU-47524545-4e53-494d-6832-303000000004", 0),
            ("GPU-", 0),
            ("MIG-0", 0),
        ] {
            assert_eq!(count(list, 4), visible, "{list:?}");
        }
    }
}
