//! Joining, claiming and leaving, and what is refused.

use std::fs;

use super::parent::{Child, Folder, LIST, sms};

#[test]
fn names_of_one_plan_are_apart_in_two_processes() {
    let folder = Folder::new("apart");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    let a = sms(&one.does(&format!("join 0 {LIST} a")));
    let b = sms(&other.does("join 0 any b"));
    assert_eq!(a["a"].len(), 64);
    assert_eq!(b["b"].len(), 132 - 64);
    assert!(a["a"].iter().all(|sm| !b["b"].contains(sm)));

    // Only the claimed name has a context.
    let status = one.does("status");
    let expected = format!(
        "1 1 a:64:held by this manager; b:68:held by process {} (processes-",
        other.id()
    );
    assert!(status.starts_with(&expected), "{status}");

    let held = other.fails("claim a");
    assert!(
        held.contains(&format!("held by process {}", one.id())),
        "{held}"
    );
    assert_eq!(one.does("leave a"), "");
    assert_eq!(sms(&other.does("claim a"))["a"], a["a"]);
    assert!(
        other
            .does("status")
            .starts_with("1 2 a:64:held by this manager; b:68:held by this")
    );
}

#[test]
fn a_name_is_given_back_with_the_last_handle_of_its_context() {
    let folder = Folder::new("handles");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    one.does(&format!("join 0 {LIST} a,b"));
    one.does("keep a");
    one.does("drop");
    // What was not kept is free; what was is not, though the manager is gone.
    other.does(&format!("join 0 {LIST} b"));
    assert!(other.fails("claim a").contains("held by process"));
    one.does("let-go a");
    other.does("claim a");
}

#[test]
fn the_last_hold_on_sms_gives_their_name_back() {
    let folder = Folder::new("last");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    let a = sms(&one.does(&format!("join 0 {LIST} a,b")));
    one.does("keep-sms a");
    one.does("leave a");
    let held = other.fails(&format!("join 0 {LIST} a"));
    assert!(
        held.contains(&format!("held by process {}", one.id())),
        "{held}"
    );
    one.does("let-go a"); // and nothing more of the manager
    let again = sms(&other.does(&format!("join 0 {LIST} a")));
    assert_eq!(again["a"], a["a"]);
    // The first manager notices, and gets the name once it is free again.
    assert!(one.fails("claim a").contains("held by process"));
    other.does("drop");
    assert_eq!(sms(&one.does("claim a"))["a"], a["a"]);
}

#[test]
fn a_joined_manager_leaves_the_plan_by_nothing() {
    let folder = Folder::new("joined");
    let mut one = Child::start(&folder);
    one.does(&format!("join 0 {LIST} a"));
    for command in ["rebalance", "create"] {
        let refused = one.fails(command);
        assert!(refused.contains("would leave the plan"), "{refused}");
    }
    let unknown = one.fails("claim c");
    assert!(
        unknown.contains("no partition \"c\"; it has a, b"),
        "{unknown}"
    );
    one.does("leave a");
    assert!(one.fails("create").contains("would leave the plan"));
}

#[test]
fn another_list_waits_for_the_end_of_the_one_in_force() {
    let folder = Folder::new("lists");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    assert!(other.fails("join 0 any a").contains("no plan is in force"));
    one.does(&format!("join 0 {LIST} a"));
    let refused = other.fails("join 0 a=32,b=rest a");
    assert!(refused.contains("partitions a: 64, b: rest"), "{refused}");
    assert!(refused.contains("asks for a: 32, b: rest"), "{refused}");
    // With patience it takes its turn.
    other.tell("join 60000 a=32,b=rest a");
    one.does("leave a");
    let a = sms(other.answer().unwrap().strip_prefix("ok ").unwrap());
    assert_eq!(a["a"].len(), 32);
    assert!(other.does("status").starts_with("2 1 "));
    // The plan of the first is gone, and it notices.
    let gone = one.fails("claim a");
    assert!(gone.contains("drop the manager, and join again"), "{gone}");
    one.does("drop");
    one.does("join 0 any b");
}

#[test]
fn whoever_waits_for_a_name_gets_it() {
    let folder = Folder::new("waits");
    let (mut one, mut other) = (Child::start(&folder), Child::start(&folder));
    one.does(&format!("join 0 {LIST} a,b"));
    other.tell(&format!("join 60000 {LIST} a"));
    one.does("leave a");
    assert!(other.answer().unwrap().starts_with("ok a:"));
}

#[test]
fn many_that_race_for_the_first_plan_agree() {
    for _ in 0..5 {
        let folder = Folder::new("race");
        let mut children: Vec<Child> = (0..4).map(|_| Child::start(&folder)).collect();
        let list = "n0=32,n1=32,n2=32,n3=rest";
        for (index, child) in children.iter_mut().enumerate() {
            child.tell(&format!("join 0 {list} n{index}"));
        }
        let mut all = Vec::new();
        for child in &mut children {
            let answer = child.answer().unwrap();
            let answer = answer
                .strip_prefix("ok ")
                .unwrap_or_else(|| panic!("{answer}"));
            all.extend(sms(answer).into_values().flatten());
        }
        assert_eq!(all.len(), 132);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 132, "an SM was given twice");
        assert!(children[0].does("status").starts_with("1 "));
    }
}

#[test]
fn a_damaged_plan_and_damaged_claims_are_refused() {
    let folder = Folder::new("damaged");
    let mut one = Child::start(&folder);
    one.does(&format!("join 0 {LIST} a"));
    one.does("drop");
    let plan = folder.file(".plan");
    let text = fs::read_to_string(&plan).unwrap();
    fs::write(&plan, text.replace("sms 132", "sms 131")).unwrap();
    let refused = one.fails(&format!("join 0 {LIST} a"));
    assert!(
        refused.contains("is not used: it is damaged; end all processes"),
        "{refused}"
    );
    fs::remove_file(&plan).unwrap();
    one.does(&format!("join 0 {LIST} a"));
    one.does("drop");
    let claims = folder.file(".claims");
    fs::write(&claims, "short").unwrap();
    let refused = one.fails(&format!("join 0 {LIST} a"));
    assert!(
        refused.contains(".claims is not used: it is damaged"),
        "{refused}"
    );
}

/// A new file would know of no holder, and give all names again.
#[test]
fn names_are_not_given_again_where_the_claims_were_removed() {
    let folder = Folder::new("removed-claims");
    let mut one = Child::start(&folder);
    one.does(&format!("join 0 {LIST} a"));
    fs::remove_file(folder.file(".claims")).unwrap();
    let mut other = Child::start(&folder);
    let join = format!("join 0 {LIST} a");
    let refused = other.fails(&join);
    let problem = ".plan is not used: the file of its claims is gone";
    assert!(refused.contains(problem), "{refused}");
    let refused = other.fails("set-from-outside 0 a=64");
    assert!(refused.contains(problem), "{refused}");
    one.does("drop");
    fs::remove_file(folder.file(".plan")).unwrap();
    other.does(&join);
}

#[test]
fn processes_that_see_another_device_or_driver_do_not_join() {
    let folder = Folder::new("others");
    let device = folder.path().join("fewer.toml");
    let text = "cuda_version = \"13.0\"\n[device]\nname = \"h200\"\ncompute_capability = \"9.0\"\n\
        sm_count = 96\nmemory_mib = 40960\n";
    fs::write(&device, text).unwrap();
    let mut one = Child::start(&folder);
    one.does(&format!("join 0 {LIST} a"));
    for (spec, difference) in [
        (
            format!("sim:{}", device.display()),
            "SM count 132, and this one asks for 96",
        ),
        (
            "sim:h200@13.1".to_owned(),
            "driver version 13000, and this one asks for 13010",
        ),
    ] {
        let mut other = Child::start_with(&folder, |command| {
            let variable = super::child::VARIABLE;
            command.env(variable, format!("{spec} {}", folder.shared()));
        });
        let refused = other.fails(&format!("join 0 {LIST} b"));
        assert!(refused.contains(difference), "{refused}");
    }
    // Once nobody holds a name, the next may make another plan.
    one.does("leave a");
    let mut newer = Child::start_with(&folder, |command| {
        let variable = super::child::VARIABLE;
        command.env(variable, format!("sim:h200@13.1 {}", folder.shared()));
    });
    newer.does(&format!("join 0 {LIST} b"));
}

#[test]
fn every_way_to_split_is_the_same_in_two_processes() {
    for spec in [
        "h200@12.4",
        "h200@12.5",
        "h200@13.1",
        "a100@12.4",
        "rtx5090@13.1",
        "t4@12.8",
    ] {
        let folder = Folder::new("ways");
        let start = || {
            Child::start_with(&folder, |command| {
                let variable = super::child::VARIABLE;
                command.env(variable, format!("sim:{spec} {}", folder.shared()));
            })
        };
        let (mut one, mut other) = (start(), start());
        let list = "a=6,b=10,c=12,d=rest";
        let first = sms(&one.does(&format!("join 0 {list} a,d")));
        let second = sms(&other.does("join 0 any b,c"));
        let mut all: Vec<u32> = first
            .into_values()
            .chain(second.into_values())
            .flatten()
            .collect();
        let given = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), given, "{spec}: an SM was given twice");
        one.does("leave a");
        assert_eq!(sms(&other.does("claim a")).len(), 3);
    }
}
