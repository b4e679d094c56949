//! Processes in odd surroundings: without standard descriptors, with other signals, executed again, in a folder that was
//! moved.

use std::{fs, os::unix::process::CommandExt};

use super::{
    daemon::Daemon,
    parent::{Child, Folder, LIST},
};

#[test]
fn a_log_does_not_go_into_the_claims() {
    let folder = Folder::new("no-terminal");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    one.does(&format!("join-without-terminal {LIST} a"));
    other.does(&format!("join 0 {LIST} b"));
}

/// Its locks went with the program before, and without a driver nothing of that is left.
#[test]
fn a_process_that_executes_itself_again_gets_its_names() {
    let folder = Folder::new("again");
    let mut one = Child::start(&folder);
    one.does(&format!("join 0 {LIST} a"));
    assert_eq!(one.ask("execute-again").as_deref(), Some("ready"));
    one.does(&format!("join 0 {LIST} a"));
}

/// The kernel keeps no status of the control program then.
#[test]
fn a_process_that_ignores_the_ends_of_children_reads_the_list() {
    let folder = Folder::new("no-status");
    let daemon = Daemon::new(&folder);
    let dead = {
        let mut dead = daemon.start(&folder);
        dead.does(&format!("join 0 {LIST} a"));
        let pid = dead.id();
        dead.kill();
        pid
    };
    let mut other = Child::start_with(&folder, |command| {
        daemon.environment(command);
        command.env("CUDA_GREEN_SIM_FAULTS", "mps=100%");
        let ignore = || {
            // SAFETY: no handler is installed, so nothing runs in one.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: the call is safe between a fork and the execution of a program.
        unsafe { command.pre_exec(ignore) };
    });
    let join = format!("join 0 {LIST} a");
    // Neither an answer nor a status.
    let refused = other.fails(&join);
    assert!(refused.contains("ignores SIGCHLD"), "{refused}");
    daemon.list(77, &[dead, other.id()]);
    assert!(other.fails(&join).contains("still lists it"));
    daemon.list(77, &[other.id()]);
    other.does(&join);
}

/// Whoever finds the folder by its path finds another one, and gets the same names there. Who has them says so.
#[test]
fn a_folder_that_was_moved_is_noticed() {
    let folder = Folder::new("moved");
    let mut one = Child::start(&folder);
    one.does(&format!("join 0 {LIST} a"));
    fs::rename(folder.shared(), folder.path().join("old")).unwrap();
    for command in ["claim b", "set a=32"] {
        let refused = one.fails(command);
        assert!(
            refused.contains("its folder was moved or removed"),
            "{refused}"
        );
    }
}

/// A program that ends at once, in a process that dies of a broken pipe.
#[test]
fn a_tester_that_ends_at_once_ends_nobody() {
    let folder = Folder::new("no-reader");
    let daemon = Daemon::new(&folder);
    // It may end before it is written to, or after that.
    for _ in 0..20 {
        let mut one = Child::start_with(&folder, |command| {
            daemon.environment(command);
            command
                .env("CUDA_GREEN_SIM_FAULTS", "mps=100%")
                .env("CUDA_GREEN_TESTER", "true");
        });
        one.does("default-pipe-signal");
        one.does(&format!("join 0 {LIST} a"));
        assert!(one.does("separation").contains("not tested"));
        one.kill();
        fs::remove_dir_all(folder.shared()).unwrap();
    }
}

#[cfg(feature = "tracing")]
#[test]
fn a_subscriber_that_panics_keeps_no_one_from_following() {
    let folder = Folder::new("panics");
    let (mut one, mut other) = super::parent::two(&folder);
    one.does("subscribe panics");
    for sms in [32, 24, 16] {
        other.does(&format!("set a={sms}"));
    }
}

#[cfg(feature = "tracing")]
#[test]
fn a_subscriber_that_changes_shares_does_not_wait_for_itself() {
    let folder = Folder::new("sets");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    one.does(&format!("join 60000 {LIST} a"));
    other.does(&format!("join 0 {LIST} b"));
    one.does("subscribe sets");
    other.does("set a=32");
    while one.does("heard").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(one.does("heard").contains("would wait for itself"));
    other.does("set a=24");
}
