//! Detection of a process with more rights than the user who set its environment.

/// Returns whether the process runs with raised privileges: set-user-id, set-group-id, file capabilities. Whoever started
/// such a process must not choose what it loads.
///
/// Linux tells every program at its start, for exactly this purpose: the dynamic loader itself uses `AT_SECURE` to
/// decide whether to ignore `LD_LIBRARY_PATH` (getauxval(3), ld.so(8)).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn are_raised() -> bool {
    // SAFETY: the function takes a number and answers with one; 0 stands for "unknown to this kernel".
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Returns the same on systems that have a function for it (issetugid(2)).
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "dragonfly"
))]
pub fn are_raised() -> bool {
    // SAFETY: the function takes nothing and cannot fail.
    unsafe { libc::issetugid() != 0 }
}

/// Returns the same on systems without either: only the ids can be compared.
#[cfg(all(
    unix,
    not(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "openbsd",
        target_os = "netbsd",
        target_os = "dragonfly"
    ))
))]
pub fn are_raised() -> bool {
    // SAFETY: these functions take nothing and cannot fail.
    unsafe { libc::getuid() != libc::geteuid() || libc::getgid() != libc::getegid() }
}

/// Returns `false`: on Windows, a program that runs with more rights is started as a new process with an environment
/// of its own, not with that of the user who started it.
#[cfg(not(unix))]
pub fn are_raised() -> bool {
    false
}

#[cfg(test)]
mod tests {
    /// The other answer is tested in a process of its own, by `tests/privileges.rs` of the workspace.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no auxiliary vector")]
    fn a_test_has_no_raised_privileges() {
        assert!(!super::are_raised());
    }
}
