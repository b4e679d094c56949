//! Whether this process has rights that the user who set its environment lacks.

/// Whether the process runs with raised privileges: set-user-id, set-group-id, file capabilities.
///
/// Linux tells every program at its start, for exactly this purpose: `AT_SECURE` is what the dynamic
/// loader itself goes by when it ignores `LD_LIBRARY_PATH` (getauxval(3), ld.so(8)).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn are_raised() -> bool {
    // SAFETY: the function takes a number and answers with one; 0 stands for "unknown to this kernel".
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The same where the system answers the question with a function of its own (issetugid(2)).
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "dragonfly"
))]
pub(crate) fn are_raised() -> bool {
    // SAFETY: the function takes nothing and cannot fail.
    unsafe { libc::issetugid() != 0 }
}

/// The same where there is neither: the ids alone can be compared.
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
pub(crate) fn are_raised() -> bool {
    // SAFETY: these functions take nothing and cannot fail.
    unsafe { libc::getuid() != libc::geteuid() || libc::getgid() != libc::getegid() }
}

/// Windows has no program that runs with other rights than those of whoever started it with this
/// environment: raising them starts a new process with an environment of its own.
#[cfg(not(unix))]
pub(crate) fn are_raised() -> bool {
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
