//! Processes that are killed, stopped or forked at each step.

use super::{
    child::{JOIN_STEPS, STEPS},
    parent::{Child, Folder, LIST, sms},
};

/// Brings a child to a step, at which it gets the signal; returns it.
fn stopped_at(folder: &Folder, step: usize, signal: i32) -> Child {
    let mut child = Child::start(folder);
    child.stop_at(step, signal);
    child.tell(&format!("join 0 {LIST} a"));
    child.tell("leave a"); // the last steps are there
    child
}

#[test]
fn whoever_is_killed_at_any_step_leaves_all_to_the_next() {
    for (step, at) in STEPS.iter().enumerate().take(JOIN_STEPS) {
        let folder = Folder::new(&format!("killed-{step}"));
        let mut dead = stopped_at(&folder, step, libc::SIGKILL);
        while dead.answer().is_some() {}
        dead.wait();
        let mut next = Child::start(&folder);
        let names = sms(&next.does(&format!("join 0 {LIST} a,b")));
        assert_eq!(names["a"].len() + names["b"].len(), 132, "{:?}", at);
    }
}

#[test]
fn a_plan_that_is_replaced_before_the_lock_is_not_claimed() {
    let folder = Folder::new("replaced");
    let mut first = Child::start(&folder);
    first.does(&format!("join 0 {LIST} a"));
    first.does("drop"); // the plan stays, and nobody holds a name of it
    let mut stopped = Child::start(&folder);
    stopped.stop_at(0, libc::SIGSTOP);
    stopped.tell(&format!("join 0 {LIST} a"));
    stopped.wait_until_stopped();
    let mut other = Child::start(&folder);
    let b = sms(&other.does("join 0 a=32,b=rest b"));
    assert_eq!(b["b"].len(), 132 - 32);
    stopped.signal(libc::SIGCONT);
    let answer = stopped.answer().unwrap();
    assert!(
        answer.contains("by a plan of partitions a: 32, b: rest"),
        "{answer}"
    );
}

#[test]
fn whoever_is_stopped_at_any_step_gives_nothing_to_two() {
    for (step, at) in STEPS.iter().enumerate().take(JOIN_STEPS).skip(1) {
        let folder = Folder::new(&format!("stopped-{step}"));
        let mut stopped = stopped_at(&folder, step, libc::SIGSTOP);
        // Answers up to the step come before it.
        stopped.wait_until_stopped();
        let mut other = Child::start(&folder);
        let answer = other.ask(&format!("join 0 {LIST} a")).unwrap();
        let got = answer.strip_prefix("ok").map(sms);
        // A process that is stopped while it has the lock of the name or of changes keeps others out, and says so.
        assert!(got.is_none(), "{:?}: {answer}", at);
        let is_told =
            answer.contains("held by process") || answer.contains("another process has been");
        assert!(is_told, "{:?}: {answer}", at);
        stopped.signal(libc::SIGCONT);
        let answers = [stopped.answer().unwrap(), stopped.answer().unwrap()];
        assert!(answers[0].starts_with("ok a:"), "{:?}: {answers:?}", at);
        assert_eq!(answers[1].trim(), "ok");
        assert!(other.does(&format!("join 0 {LIST} a")).starts_with("a:"));
    }
}

#[test]
fn a_forked_child_holds_nothing() {
    let folder = Folder::new("forked");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    one.does(&format!("join 0 {LIST} a"));
    let said = one.does("fork");
    let (forked, said) = said.split_once(' ').unwrap();
    // It sees the plan and can claim nothing; what it dropped is still its parent's.
    assert_eq!(said, "2 true");
    let held = other.fails(&format!("join 0 {LIST} a"));
    assert!(held.contains("held by process"), "{held}");
    // It outlives its parent, whose name is free all the same.
    one.kill();
    other.does(&format!("join 0 {LIST} a"));
    // SAFETY: the process is this test's grandchild, which waits for a signal.
    unsafe { libc::kill(forked.parse().unwrap(), libc::SIGKILL) };
}

#[test]
fn a_process_that_ends_without_cleaning_up_gives_its_names_back() {
    let folder = Folder::new("ends");
    let mut one = Child::start(&folder);
    one.does(&format!("join 0 {LIST} a,b"));
    drop(one);
    let mut other = Child::start(&folder);
    other.does(&format!("join 0 {LIST} a,b"));
    assert!(other.does("status").starts_with("1 2 "), "the plan stays");
}
