//! Changes of the plan among processes that work: who gets which SMs, who is told, and who is in the way.

use std::{path::Path, thread, time::Duration};

use cuda_green::{SharedDevice, SharingStep};

use super::parent::{Child, Folder, LIST, sms, step, two};

/// Ensures that two children come to run on these numbers of SMs, and then have none in common.
#[track_caller]
fn apart(one: &mut Child, other: &mut Child, sizes: [usize; 2]) {
    let mut found = [0; 2];
    for _ in 0..500 {
        let (a, b) = (sms(&one.does("sms")), sms(&other.does("sms")));
        found = [a["a"].len(), b["b"].len()];
        if found == sizes {
            assert!(a["a"].iter().all(|sm| !b["b"].contains(sm)));
            return;
        }
        // Where a change was withdrawn, its SMs are taken back a moment later.
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(found, sizes);
}

/// Waits until no change is announced; returns the status.
#[track_caller]
fn settled(child: &mut Child) -> String {
    for _ in 0..500 {
        let status = child.does("announced");
        if status.starts_with("None") {
            return child.does("status");
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("a change does not end");
}

#[test]
fn shares_change_in_both_processes_and_back() {
    let folder = Folder::new("change");
    let (mut one, mut other) = two(&folder);
    apart(&mut one, &mut other, [64, 68]);
    let told = other.does("set a=96");
    assert!(told.starts_with("2 a:96,b:36 behind [] "), "{told}");
    apart(&mut one, &mut other, [96, 36]);
    // The other way, by who loses.
    let told = one.does("set a=24");
    assert!(told.starts_with("3 a:24,b:108 behind [] "), "{told}");
    apart(&mut one, &mut other, [24, 108]);
    // By a process that holds nothing.
    let mut third = Child::start(&folder);
    let told = third.does("set-from-outside 0 b=60");
    assert!(told.starts_with("4 a:24,b:60 behind [] "), "{told}");
    apart(&mut one, &mut other, [24, 60]);
    // What nobody had.
    third.does("set-from-outside for-ever b=rest");
    apart(&mut one, &mut other, [24, 108]);
    assert!(
        one.does("status").starts_with("5 1 "),
        "old contexts are gone"
    );
    // The same again is no change.
    assert!(third.does("set-from-outside 0 a=24").starts_with("5 "));
}

#[test]
fn a_change_outlasts_the_processes_and_the_list_stays() {
    let folder = Folder::new("outlasts");
    let (mut one, other) = two(&folder);
    one.does("set a=96");
    drop((one, other));
    let (mut one, mut other) = two(&folder); // by the first list
    apart(&mut one, &mut other, [96, 36]);
    one.does("leave a");
    other.does("set a=32");
    one.does("claim a");
    apart(&mut one, &mut other, [32, 100]);
}

#[test]
fn one_process_that_holds_both_names_changes_alone() {
    let folder = Folder::new("alone");
    let mut one = Child::start(&folder);
    one.does(&format!("join 0 {LIST} a,b"));
    one.does("set b=32,a=rest");
    let names = sms(&one.does("sms"));
    assert_eq!([names["a"].len(), names["b"].len()], [96, 36]);
    assert!(names["a"].iter().all(|sm| !names["b"].contains(sm)));
}

#[test]
fn streams_that_follow_a_name_move_and_handles_are_in_the_way() {
    let folder = Folder::new("in-the-way");
    let (mut one, mut other) = two(&folder);
    one.does("stream a");
    other.does("set a=32");
    apart(&mut one, &mut other, [32, 100]);
    assert_eq!(one.does("stream-sms a"), "32");

    for keep in ["keep", "keep-sms"] {
        one.does(&format!("{keep} a"));
        let refused = other.fails("set a=16");
        let pid = one.id();
        assert!(refused.contains(&format!("process {pid} (")), "{refused}");
        assert!(
            refused.contains("did not leave SMs of \"a\" in time: a handle"),
            "{refused}"
        );
        // Everyone has what they had.
        assert!(settled(&mut other).contains("a:32:"));
        one.does("let-go a");
        apart(&mut one, &mut other, [32, 100]);
    }
    other.does("set a=16");
    apart(&mut one, &mut other, [16, 116]);
    // What only gets SMs keeps no one waiting, whatever it keeps.
    one.does("keep a");
    other.does("set a=32");
    apart(&mut one, &mut other, [32, 100]);
}

/// A holder from whom a change takes nothing is not waited for: it has what it is to have.
#[test]
fn who_keeps_what_he_has_is_not_behind() {
    let folder = Folder::new("not-behind");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    let list = "a=32,b=32,c=rest";
    one.does(&format!("join 0 {list} a"));
    other.does(&format!("join 60000 {list} b"));
    one.does("keep a");
    one.does("drop"); // so that nobody follows for it
    let told = other.does("set b=64");
    assert!(told.starts_with("2 a:32,b:64,c:36 behind [] "), "{told}");
}

/// A context is made only when all work of the process is over. Its names say so meanwhile.
#[test]
fn a_process_at_work_leaves_when_its_work_is_over() {
    let folder = Folder::new("at-work");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    let list = "a=32,b=32,c=rest";
    one.does(&format!("join 0 {list} a,b"));
    other.does(&format!("join 0 {list} c"));
    one.does("stream a");
    one.does("work a");
    let refused = other.fails("set a=16,b=16");
    for name in ["a", "b"] {
        let reason =
            format!("did not leave SMs of {name:?} in time: its work on the device is not over");
        assert!(refused.contains(&reason), "{refused}");
    }
    one.does("end-work");
    assert!(settled(&mut one).contains("a:32:"));

    one.does("work a");
    other.tell("set a=16");
    let is_announced = || folder.file(".claims").with_extension("next").exists();
    while !is_announced() {
        thread::sleep(Duration::from_millis(1));
    }
    one.does("end-work");
    let told = other.answer().unwrap();
    assert!(told.starts_with("ok 3 a:16,b:32,c:84 "), "{told}");
    assert_eq!(sms(&one.does("sms"))["a"].len(), 16);
}

#[test]
fn shares_that_cannot_be_are_refused() {
    let folder = Folder::new("cannot");
    let (mut one, mut other) = two(&folder);
    assert!(
        one.fails("set c=8")
            .contains("no partition \"c\"; it has a, b")
    );
    let refused = one.ask("set a=128").unwrap();
    assert!(
        refused.starts_with("error ") && refused.contains("132"),
        "{refused}"
    );
    apart(&mut one, &mut other, [64, 68]);
    let nowhere = Folder::new("nowhere");
    let mut third = Child::start(&nowhere);
    assert!(
        third
            .fails("set-from-outside 0 a=8")
            .contains("no plan is in force")
    );
}

#[test]
fn a_stopped_holder_is_named_and_takes_nothing_meanwhile() {
    let folder = Folder::new("stalled");
    let (mut one, mut other) = two(&folder);
    one.signal(libc::SIGSTOP);
    one.wait_until_stopped();
    let refused = other.fails("set a=32");
    assert!(
        refused.contains(&format!("process {} (", one.id())),
        "{refused}"
    );
    assert!(refused.contains("it does not answer"), "{refused}");
    // One that only gets SMs is not waited for, and told of.
    let told = other.does("set a=96");
    assert!(told.contains("behind [\"a\"]"), "{told}");
    one.signal(libc::SIGCONT);
    other.does("set a=104");
    apart(&mut one, &mut other, [104, 28]);
}

#[test]
fn who_is_killed_while_changing_leaves_a_plan_for_all() {
    let steps = [
        SharingStep::Numbered,
        SharingStep::NextWritten,
        SharingStep::Announced,
        SharingStep::AllLeft,
        SharingStep::InForce,
    ];
    for at in steps {
        let folder = Folder::new(&format!("changer-{at:?}"));
        let (mut one, mut other) = two(&folder);
        let mut third = Child::start(&folder);
        third.stop_at(step(at), libc::SIGKILL);
        third.tell("set-from-outside 0 a=96");
        assert!(third.answer().is_none());
        third.wait();
        let status = settled(&mut other);
        let is_changed = status.contains("a:96:");
        match at {
            SharingStep::Numbered | SharingStep::NextWritten => assert!(!is_changed, "{at:?}"),
            SharingStep::Announced => {} // as who looks finds it
            _ => assert!(is_changed, "{at:?}"),
        }
        // Nothing of it is in the way of the next one.
        other.does("set a=32");
        apart(&mut one, &mut other, [32, 100]);
    }
}

#[test]
fn a_holder_that_is_killed_at_any_step_is_no_hindrance() {
    for at in [
        SharingStep::Left,
        SharingStep::LeftRecorded,
        SharingStep::Taken,
    ] {
        let folder = Folder::new(&format!("holder-{at:?}"));
        let (mut one, mut other) = two(&folder);
        let mut third = Child::start(&folder);
        one.stop_at(step(at), libc::SIGKILL);
        // It loses some, and gets some.
        third.does("set-from-outside 0 a=32");
        third.ask("set-from-outside 0 a=96").unwrap();
        while one.answer().is_some() {}
        one.wait();
        settled(&mut other);
        let mut next = Child::start(&folder);
        next.does(&format!("join 0 {LIST} a"));
        third.does("set-from-outside 0 a=48");
        apart(&mut next, &mut other, [48, 84]);
    }
}

#[test]
fn while_a_changer_is_stopped_nobody_joins_and_nobody_gets_sms() {
    for at in [SharingStep::Announced, SharingStep::AllLeft] {
        let folder = Folder::new(&format!("stopped-{at:?}"));
        let mut other = Child::start(&folder);
        other.does(&format!("join 0 {LIST} b"));
        let mut third = Child::start(&folder);
        third.stop_at(step(at), libc::SIGSTOP);
        third.tell("set-from-outside 0 b=32");
        third.wait_until_stopped();
        let plans = SharedDevice::list(Some(Path::new(&folder.shared()))).unwrap();
        let seen = &plans[0].status;
        assert_eq!(seen.announced, Some(2));
        let sms: Vec<_> = seen.names.iter().map(|one| one.announced_sms).collect();
        assert_eq!(sms, [Some(64), Some(36)]);
        let mut one = Child::start(&folder);
        let busy = one.fails(&format!("join 0 {LIST} a"));
        assert!(busy.contains("has been changing the plan"), "{busy}");
        let busy = other.fails("set b=16");
        assert!(busy.contains("has been changing the plan"), "{busy}");
        // Who has patience joins when it is over.
        one.tell(&format!("join 60000 {LIST} a"));
        third.signal(libc::SIGCONT);
        assert!(third.answer().unwrap().starts_with("ok 2 a:64,b:36"));
        assert!(one.answer().unwrap().starts_with("ok a:"));
        apart(&mut one, &mut other, [64, 36]);
    }
}

#[test]
fn of_two_changes_at_once_one_comes_after_the_other() {
    let folder = Folder::new("two");
    let (mut one, mut other) = two(&folder);
    for round in 0..5 {
        let (a, b) = (8 * (2 + round), 8 * (3 + round));
        one.tell(&format!("set a={a}"));
        other.tell(&format!("set a={b}"));
        let answers = [one.answer().unwrap(), other.answer().unwrap()];
        assert!(
            answers.iter().all(|answer| answer.starts_with("ok ")),
            "{answers:?}"
        );
        let numbers = answers.map(|answer| {
            answer[3..]
                .split(' ')
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        });
        let last = if numbers[0] > numbers[1] { a } else { b };
        apart(&mut one, &mut other, [last, 132 - last]);
    }
}

#[test]
fn a_forked_child_follows_nothing_and_hinders_nothing() {
    let folder = Folder::new("fork-change");
    let (mut one, mut other) = two(&folder);
    let said = one.does("fork");
    let forked = said.split(' ').next().unwrap().parse().unwrap();
    other.does("set a=32");
    apart(&mut one, &mut other, [32, 100]);
    // SAFETY: the process is this test's grandchild, which waits for a signal.
    unsafe { libc::kill(forked, libc::SIGKILL) };
}

#[test]
fn a_name_is_claimed_once_by_threads_of_one_manager() {
    let folder = Folder::new("threads");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    one.does(&format!("join 0 {LIST} b"));
    for _ in 0..20 {
        assert_eq!(one.does("claim-twice a"), "1");
        let held = other.fails(&format!("join 0 {LIST} a"));
        assert!(held.contains("held by process"), "{held}");
        one.does("leave a");
    }
}
