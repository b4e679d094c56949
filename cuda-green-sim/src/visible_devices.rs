//! `CUDA_VISIBLE_DEVICES`: the devices that a process may use, and their order.
//!
//! The rule was measured on two H200, driver 580 (conformance `driver/visible_devices`). The first entry decides
//! whether the list names ordinals or UUIDs. An entry that names no device of that kind ends the list. A device named
//! twice makes `cuInit` fail.

use cuda_green_sys::CUresult;

/// Returns the ordinals that a list names, in its order; `NO_DEVICE` if there are none, `INVALID_DEVICE` if one is
/// named twice.
pub(crate) fn devices(list: &str, uuids: &[[u8; 16]]) -> Result<Vec<u32>, CUresult> {
    let named_by_uuid = list.starts_with(UUID);
    let mut named = Vec::new();
    for entry in list.split(',') {
        let device = if named_by_uuid {
            by_uuid(entry, uuids)
        } else {
            ordinal(entry).filter(|one| (*one as usize) < uuids.len())
        };
        let Some(device) = device else { break };
        if named.contains(&device) {
            return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
        }
        named.push(device);
    }
    if named.is_empty() {
        return Err(CUresult::CUDA_ERROR_NO_DEVICE);
    }
    Ok(named)
}

/// The beginning of a UUID in a list, in capitals only.
const UUID: &str = "GPU-";

/// Reads an ordinal as C's `strtol` does, and keeps its lowest 32 bits: spaces and a sign may precede it, anything
/// may follow.
fn ordinal(entry: &str) -> Option<u32> {
    let text = entry.trim_ascii_start();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    if digits.is_empty() {
        return None;
    }
    let value = digits.parse::<i64>().unwrap_or(i64::MAX);
    u32::try_from(if negative { -value } else { value } as i32).ok()
}

/// Finds the only device whose UUID begins with the given digits, in either case. Hyphens are ignored, and so is
/// everything after the last digit of a UUID.
fn by_uuid(entry: &str, uuids: &[[u8; 16]]) -> Option<u32> {
    let digits: Vec<u8> = entry
        .strip_prefix(UUID)?
        .chars()
        .filter(|c| *c != '-')
        .map_while(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .take(32)
        .collect();
    let begins = |uuid: &[u8; 16]| {
        let own = uuid.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.iter().zip(own).all(|(asked, own)| *asked == own)
    };
    let mut found = (0..).zip(uuids).filter(|(_, uuid)| begins(uuid));
    match (found.next(), found.next()) {
        (Some((device, _)), None) if !digits.is_empty() => Some(device),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two devices, by what the real driver said to the same lists.
    #[test]
    fn lists_are_read_as_the_driver_reads_them() {
        let (first, second) = ([0x5e; 16], [0x1c; 16]);
        let one = "GPU-5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e";
        let two = "GPU-1c1c1c1c-1c1c-1c1c-1c1c-1c1c1c1c1c1c";
        let none = Err(CUresult::CUDA_ERROR_NO_DEVICE);
        let twice = Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
        let check = |list: &str, expected: &Result<Vec<u32>, CUresult>| {
            assert_eq!(&devices(list, &[first, second]), expected, "{list:?}");
        };
        for list in [
            "",
            "-1",
            "5",
            "2",
            "all",
            ",0",
            "GPU-",
            "GPU",
            "MIG-0",
            "'1'",
            "junk,0",
            "gpu-1c",
            " GPU-1c",
            "99999999999999999999",
            "GPU-00",
        ] {
            check(list, &none);
        }
        for list in ["0,0", "0,1,0"] {
            check(list, &twice);
        }
        check(&format!("{one},{one}"), &twice);
        for list in [
            "0",
            "-0",
            "0,-1,1",
            "0,5,1",
            "0 1",
            "0x1",
            "0,",
            "0,,1",
            "0;1",
            "4294967296",
        ] {
            check(list, &Ok(vec![0]));
        }
        for list in [
            "1",
            " 1",
            "1 ",
            "+1",
            "01",
            "1abc",
            "1.5",
            "1e0",
            "\t1",
            "4294967297",
            "1,junk,0",
        ] {
            check(list, &Ok(vec![1]));
        }
        for list in [" 0 , 1 ", "0,1"] {
            check(list, &Ok(vec![0, 1]));
        }
        for list in ["1,0", "1\n,0"] {
            check(list, &Ok(vec![1, 0]));
        }
        check(&format!("{two},{one}"), &Ok(vec![1, 0]));
        check(&format!("0,{two}"), &Ok(vec![0]));
        check(&format!("{two},0"), &Ok(vec![1]));
        for list in ["GPU-1", "GPU-1C1C", "GPU-1c1c1c1c-"] {
            check(list, &Ok(vec![1]));
        }
        check(&two.replace("c-", "c"), &Ok(vec![1]));
        for after in ["0", " "] {
            check(&format!("{two}{after}"), &Ok(vec![1]));
        }
    }

    /// Nobody is told two devices apart by what both begin with.
    #[test]
    fn a_beginning_that_two_have_is_none() {
        let mut other = [7; 16];
        other[15] = 8;
        let uuids = [[7; 16], other];
        assert!(devices("GPU-0707", &uuids).is_err());
        let last = "GPU-07070707-0707-0707-0707-070707070708";
        assert_eq!(devices(last, &uuids), Ok(vec![1]));
    }
}
