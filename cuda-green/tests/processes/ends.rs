//! Holders that are ended: the MPS daemon first, and only a process that is proven to be the holder.

use std::{path::Path, thread, time::Duration};

use cuda_green::{EndStep, Error, NameHolder, Result, SharedDevice, SharingError};

use super::{
    daemon::{Daemon, Server},
    parent::{Child, Folder, LIST},
};

const WAIT: Duration = Duration::from_millis(300);

fn shared(folder: &Folder) -> SharedDevice {
    let shared = folder.shared();
    let mut plans = SharedDevice::list(Some(Path::new(&shared))).unwrap();
    assert_eq!(plans.len(), 1);
    plans.remove(0)
}

fn steps(result: Result<cuda_green::EndedHolder>) -> Vec<&'static str> {
    let steps = result.unwrap().steps.into_iter();
    steps
        .map(|step| match step {
            EndStep::ClientTerminated { .. } => "terminated",
            EndStep::Unlisted { .. } => "unlisted",
            EndStep::StillListed => "still listed",
            EndStep::Asked => "asked",
            EndStep::Stopped => "stopped",
            EndStep::Killed => "killed",
            EndStep::Ended { .. } => "ended",
            other => panic!("{other:?}"),
        })
        .collect()
}

#[track_caller]
fn reason(result: Result<cuda_green::EndedHolder>) -> String {
    match result {
        Err(Error::Sharing(SharingError::NotEnded { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_mps_a_holder_gets_two_signals() {
    let folder = Folder::new("end-plain");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    one.does(&format!("join 0 {LIST} a"));
    assert_eq!(
        reason(shared(&folder).end_holder("b", WAIT)),
        "nobody holds it"
    );
    other.does(&format!("join 0 {LIST} b"));
    let ended = shared(&folder).end_holder("a", WAIT).unwrap();
    assert_eq!((ended.pid, ended.names), (one.id(), vec!["a".to_owned()]));
    assert_eq!(ended.steps[0], EndStep::Asked);
    one.wait();
    other.does("ignore-term");
    assert_eq!(
        steps(shared(&folder).end_holder("b", WAIT)),
        ["asked", "killed", "ended"]
    );
    let names = shared(&folder).status.names;
    assert!(
        names.iter().all(|one| one.holder == NameHolder::Free),
        "{names:?}"
    );
    let missing = shared(&folder).end_holder("c", WAIT).unwrap_err();
    assert!(
        missing.to_string().contains("no partition \"c\""),
        "{missing}"
    );
}

#[test]
fn a_client_is_ended_at_the_daemon_before_it_gets_a_signal() {
    let folder = Folder::new("end-mps");
    let daemon = Daemon::new(&folder);
    let server = Server::start(&folder);
    let (mut one, mut other) = (daemon.start(&folder), daemon.start(&folder));
    one.does(&format!("join 0 {LIST} a"));
    other.does(&format!("join 0 {LIST} b"));

    // Each proof that is missing is a refusal.
    daemon.list(server.id(), &[other.id()]);
    let unlisted = daemon.end(&folder, "a").unwrap_err();
    assert!(unlisted.contains("not proven to be a client"), "{unlisted}");
    daemon.list(std::process::id(), &[one.id(), other.id()]);
    let elsewhere = daemon.end(&folder, "a").unwrap_err();
    assert!(elsewhere.contains("is no MPS server here"), "{elsewhere}");
    assert_eq!(daemon.told(), "");
    one.does("status"); // it lives

    daemon.list(server.id(), &[one.id(), other.id()]);
    daemon.forgets_terminated_clients(true);
    let ended = daemon.end(&folder, "a").unwrap();
    let pid = one.id();
    assert_eq!(ended, format!("{pid} terminated unlisted asked ended"));
    assert_eq!(
        daemon.told(),
        format!("terminate_client {} {pid}\n", server.id())
    );
    other.does("claim a");

    // The server does not let go of it.
    daemon.forgets_terminated_clients(false);
    let ended = daemon.end(&folder, "b").unwrap();
    let pid = other.id();
    assert_eq!(
        ended,
        format!("{pid} terminated still listed stopped killed ended")
    );
}

/// The plan is replaced while the daemon is asked, and the place of a name is another name's by then.
#[test]
fn the_holder_of_another_name_is_not_ended() {
    let folder = Folder::new("end-other");
    let daemon = Daemon::new(&folder);
    let server = Server::start(&folder);
    let (mut one, mut other) = (daemon.start(&folder), daemon.start(&folder));
    one.does("join 0 a=64,b=rest a");
    daemon.list(server.id(), &[one.id(), other.id()]);
    daemon.forgets_terminated_clients(true);
    daemon.hold_second_question();
    let refused = thread::scope(|scope| {
        // The list of plans asks once, and the end another time.
        let ending = scope.spawn(|| daemon.end(&folder, "a"));
        daemon.wait_for_second_question();
        one.does("drop");
        other.does("join 0 b=64,a=rest b");
        daemon.hold_no_question();
        ending.join().unwrap().unwrap_err()
    });
    assert!(
        refused.contains("another process has just claimed it"),
        "{refused}"
    );
    assert_eq!(daemon.told(), "");
    other.does("status"); // it lives
}

/// Ends a name's holder in a process of its own, whose environment says where the daemon is; not a test of this process.
#[test]
fn ender() {
    let Ok(what) = std::env::var("CUDA_GREEN_TEST_END") else {
        return;
    };
    let (name, folder) = what.split_once(' ').unwrap();
    let plan = SharedDevice::list(Some(Path::new(folder)))
        .unwrap()
        .remove(0);
    match plan.end_holder(name, WAIT) {
        Ok(ended) => {
            let pid = ended.pid;
            println!("\n@ ok {pid} {}", steps(Ok(ended)).join(" "));
        }
        error => println!("\n@ {}", reason(error)),
    }
}
