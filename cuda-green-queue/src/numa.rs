//! The NUMA node of a GPU, and of memory for it.

use std::fmt;

use cuda_green::{CudaDevice, sys::CUdevice_attribute};

/// The NUMA node that a queue's segment was allocated for, and the one that it is on. Nothing is guessed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Placement {
    /// The GPU's own node, if it is known.
    pub gpu: Option<u32>,
    /// The source of `gpu`, or why it is not known.
    pub source: &'static str,
    /// The node of the segment's memory as the operating system says, if it does.
    pub memory: Option<u32>,
    /// The reason why the memory was not asked for on the GPU's node, if it was not.
    pub refused: Option<String>,
}

impl Placement {
    /// Returns whether the memory is on the GPU's node; `None` if one of the two is not known.
    pub fn is_local(&self) -> Option<bool> {
        Some(self.gpu? == self.memory?)
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.gpu, self.memory) {
            (Some(gpu), Some(memory)) if gpu == memory => write!(
                f,
                "the segment is on NUMA node {memory}, the GPU's ({})",
                self.source
            )?,
            (Some(gpu), Some(memory)) => write!(
                f,
                "the segment is on NUMA node {memory}, and the GPU on node {gpu} ({})",
                self.source
            )?,
            (Some(gpu), None) => write!(
                f,
                "the GPU is on NUMA node {gpu} ({}); the segment's node is not known",
                self.source
            )?,
            (None, Some(memory)) => write!(
                f,
                "the segment is on NUMA node {memory}; the GPU's is not known: {}",
                self.source
            )?,
            (None, None) => write!(f, "no NUMA node is known: {}", self.source)?,
        }
        if let Some(refused) = &self.refused {
            write!(f, "; not asked for: {refused}")?;
        }
        Ok(())
    }
}

/// Returns a GPU's node, or the reason why it is not known.
fn node_of(device: &CudaDevice) -> (Option<u32>, &'static str) {
    // Refused by drivers before 12.4, and -1 where the driver does not know.
    let attribute = device.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID);
    if let Some(node) = attribute.ok().and_then(|node| u32::try_from(node).ok()) {
        return (Some(node), "the driver's attribute");
    }
    if device.driver().is_simulated() {
        return (None, "a simulated GPU has none");
    }
    match sysfs(device) {
        Some(node) => (Some(node), "sysfs"),
        None => (None, "neither the driver nor sysfs says"),
    }
}

fn sysfs(device: &CudaDevice) -> Option<u32> {
    let number = |which| {
        let value = device.attribute(which).ok()?;
        u32::try_from(value).ok()
    };
    let domain = number(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
    let bus = number(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
    let slot = number(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
    // A GPU is function 0 of its slot.
    let path = format!("/sys/bus/pci/devices/{domain:04x}:{bus:02x}:{slot:02x}.0/numa_node");
    parse_node(&std::fs::read_to_string(path).ok()?)
}

/// Parses the contents of sysfs' `numa_node`, which is -1 where the firmware does not say.
fn parse_node(text: &str) -> Option<u32> {
    let node: i64 = text.trim().parse().ok()?;
    u32::try_from(node).ok()
}

/// Allocates memory for a GPU on the GPU's node, where that is possible. `start` returns the memory's address.
pub(crate) fn allocate_near<T, E>(
    device: &CudaDevice,
    allocate: impl FnOnce() -> Result<T, E>,
    start: impl FnOnce(&T) -> *const u8,
) -> Result<(T, Placement), E> {
    let (gpu, source) = node_of(device);
    let policy = gpu.map(policy::prefer);
    let allocated = allocate();
    // Restored before anything else is allocated, also after an error.
    let refused = match policy {
        Some(Ok(policy)) => policy.restore().err(),
        Some(Err(reason)) => Some(reason),
        None => None,
    };
    let memory = allocated?;
    let node = policy::node_of(start(&memory));
    Ok((
        memory,
        Placement {
            gpu,
            source,
            memory: node,
            refused,
        },
    ))
}

#[cfg(target_os = "linux")]
mod policy {
    //! The memory policy of a thread, by Linux' system calls.

    use std::io;

    /// Words of a mask of nodes: 1,024 nodes, the most that kernels are built for.
    const WORDS: usize = 1024 / 64;
    const MASK_BITS: libc::c_ulong = 1024;
    /// Flags of `get_mempolicy`, which libc does not have: return a node, that of an address (`linux/mempolicy.h`).
    const MPOL_F_NODE: libc::c_ulong = 1 << 0;
    const MPOL_F_ADDR: libc::c_ulong = 1 << 1;

    /// The thread's policy of before.
    pub(super) struct Restore {
        mode: libc::c_int,
        mask: [libc::c_ulong; WORDS],
        restored: bool,
    }

    /// Makes the thread's new memory come from a node, if that has some.
    pub(super) fn prefer(node: u32) -> Result<Restore, String> {
        let mut restore = Restore {
            mode: libc::MPOL_DEFAULT,
            mask: [0; WORDS],
            restored: false,
        };
        let failed = |call: &str| format!("{call}: {}", io::Error::last_os_error());
        // SAFETY: the outputs are valid for a mode and a mask of that many bits; the kernel reads no address.
        let got = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut restore.mode,
                restore.mask.as_mut_ptr(),
                MASK_BITS,
                std::ptr::null::<libc::c_void>(),
                0 as libc::c_ulong,
            )
        };
        if got != 0 {
            // Nothing was changed, so nothing is restored.
            restore.restored = true;
            return Err(failed("get_mempolicy"));
        }
        let mut mask: [libc::c_ulong; WORDS] = [0; WORDS];
        let Some(word) = mask.get_mut(node as usize / 64) else {
            restore.restored = true;
            return Err(format!("node {node} is more than a mask can have"));
        };
        *word = 1 << (node % 64);
        if let Err(error) = set(libc::MPOL_PREFERRED, &mask) {
            restore.restored = true;
            return Err(error);
        }
        Ok(restore)
    }

    fn set(mode: libc::c_int, mask: &[libc::c_ulong; WORDS]) -> Result<(), String> {
        // The kernel refuses a mask for the default policy unless it is empty, and takes none at all.
        let is_empty = mask.iter().all(|word| *word == 0);
        let (mask, bits) = if is_empty {
            (std::ptr::null(), 0)
        } else {
            // The kernel reads one bit less than it is told (its own documentation calls that a bug).
            (mask.as_ptr(), MASK_BITS + 1)
        };
        // SAFETY: the mask is null, or valid for the bits that the kernel reads. Only this thread's future allocations
        // are affected.
        let set = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
        if set == 0 {
            Ok(())
        } else {
            Err(format!("set_mempolicy: {}", io::Error::last_os_error()))
        }
    }

    impl Restore {
        pub(super) fn restore(mut self) -> Result<(), String> {
            self.restored = true;
            set(self.mode, &self.mask)
        }
    }

    impl Drop for Restore {
        fn drop(&mut self) {
            // After a panic of the allocation.
            if !self.restored
                && let Err(error) = set(self.mode, &self.mask)
            {
                log::warn!("the thread's memory policy stays changed: {error}");
            }
        }
    }

    /// Returns the node of the page at an address.
    pub(super) fn node_of(address: *const u8) -> Option<u32> {
        let mut node: libc::c_int = -1;
        // SAFETY: the output is valid; the kernel only looks up the page of the address, and returns an error for none.
        let got = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut node,
                std::ptr::null_mut::<libc::c_ulong>(),
                0 as libc::c_ulong,
                address,
                MPOL_F_NODE | MPOL_F_ADDR,
            )
        };
        if got != 0 {
            return None;
        }
        u32::try_from(node).ok()
    }

    #[cfg(all(test, not(loom)))]
    mod tests {
        use super::*;

        fn current() -> Option<(libc::c_int, [libc::c_ulong; WORDS])> {
            let mut mode = -1;
            let mut mask = [0; WORDS];
            // SAFETY: as in `prefer`.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_get_mempolicy,
                    &raw mut mode,
                    mask.as_mut_ptr(),
                    MASK_BITS,
                    std::ptr::null::<libc::c_void>(),
                    0 as libc::c_ulong,
                )
            };
            (got == 0).then_some((mode, mask))
        }

        #[test]
        fn the_policy_is_as_before_on_every_path() {
            let before = current();
            match prefer(0) {
                Ok(restore) => {
                    assert_eq!(current().map(|(mode, _)| mode), Some(libc::MPOL_PREFERRED));
                    restore.restore().unwrap();
                }
                // A container may forbid it.
                Err(reason) => assert!(reason.contains("mempolicy"), "{reason}"),
            }
            assert_eq!(current(), before);
            let unwound = std::panic::catch_unwind(|| {
                let _restore = prefer(0);
                std::panic::resume_unwind(Box::new(()));
            });
            assert!(unwound.is_err());
            assert_eq!(current(), before);
            assert!(prefer(1_000_000).is_err());
            assert_eq!(current(), before);
        }

        #[test]
        fn memory_that_is_touched_has_a_node_and_no_address_has_none() {
            let touched = [1u8; 64];
            if current().is_some() {
                assert!(node_of(touched.as_ptr()).is_some());
            }
            assert_eq!(node_of(std::ptr::null()), None);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod policy {
    //! Systems whose memory policies are not known here.

    pub(super) struct Restore;

    pub(super) fn prefer(_: u32) -> Result<Restore, String> {
        Err("only on Linux".to_owned())
    }

    impl Restore {
        pub(super) fn restore(self) -> Result<(), String> {
            Ok(())
        }
    }

    pub(super) fn node_of(_: *const u8) -> Option<u32> {
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sysfs_says_a_node_or_nothing() {
        assert_eq!(parse_node("1\n"), Some(1));
        assert_eq!(parse_node("-1\n"), None);
        assert_eq!(parse_node("node"), None);
    }

    #[test]
    fn a_placement_says_what_is_known() {
        let placement = |gpu, memory| Placement {
            gpu,
            source: "sysfs",
            memory,
            refused: None,
        };
        for (gpu, memory, local) in [
            (Some(1), Some(1), Some(true)),
            (Some(1), Some(0), Some(false)),
            (Some(1), None, None),
            (None, Some(1), None),
            (None, None, None),
        ] {
            let placement = placement(gpu, memory);
            assert_eq!(placement.is_local(), local);
            let text = placement.to_string();
            assert_eq!(
                text.contains("not known") || text.starts_with("no "),
                local.is_none()
            );
        }
    }
}
