//! Random joins, departures, changes of the plan and kills: no SM is ever two live processes' at once.

use std::{collections::BTreeMap, thread, time::Duration};

use super::parent::{Child, Folder, sms};

/// Steps of a run, or as many as the variable says.
fn steps() -> u64 {
    let said = std::env::var("CUDA_GREEN_TEST_JOINS").ok();
    said.map_or(400, |said| said.parse().unwrap())
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

const CHILDREN: usize = 4;
const NAMES: &str = "n0=24,n1=24,n2=40,n3=rest";

/// What the parent knows of its children.
struct Children {
    folder: Folder,
    all: Vec<Child>,
    joined: [bool; CHILDREN],
    /// Which child has which name, with the SMs that its blocks ran on.
    held: BTreeMap<String, (usize, Vec<u32>)>,
}

impl Children {
    fn new() -> Self {
        let folder = Folder::new("random");
        Self {
            all: (0..CHILDREN).map(|_| Child::start(&folder)).collect(),
            folder,
            joined: [false; CHILDREN],
            held: BTreeMap::new(),
        }
    }

    fn forget(&mut self, at: usize) {
        self.held.retain(|_, (holder, _)| *holder != at);
        self.joined[at] = false;
    }

    fn kill(&mut self, at: usize) {
        self.forget(at);
        let next = Child::start(&self.folder);
        std::mem::replace(&mut self.all[at], next).kill();
    }

    fn holds(&self, at: usize, name: &str) -> bool {
        let holder = self.held.get(name);
        holder.is_some_and(|(holder, _)| *holder == at)
    }

    /// Lets a child claim a name; returns whether it got it.
    fn claim(&mut self, at: usize, name: &str) -> bool {
        let command = match self.joined[at] {
            true => format!("claim {name}"),
            false => format!("join 0 {NAMES} {name}"),
        };
        let answer = self.all[at].ask(&command).unwrap();
        let Some(answer) = answer.strip_prefix("ok ") else {
            assert!(self.held.contains_key(name), "{name} is free: {answer}");
            assert!(answer.contains("held by process"), "{answer}");
            return false;
        };
        self.joined[at] = true;
        assert!(!self.held.contains_key(name), "{name} is two processes'");
        let mine = sms(answer).remove(name).unwrap();
        self.held.insert(name.to_owned(), (at, mine));
        self.check();
        true
    }

    /// Ensures that no SM is in two names.
    fn check(&self) {
        let mut all: Vec<u32> = self
            .held
            .values()
            .flat_map(|(_, sms)| sms.clone())
            .collect();
        let given = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), given, "{:?}", self.held);
    }

    /// Waits until no change is announced and all have what the plan gives to them, and looks on which SMs they run.
    fn look(&mut self) {
        for at in 0..CHILDREN {
            if !self.joined[at] {
                continue;
            }
            let child = &mut self.all[at];
            let found = (0..1000).find_map(|_| {
                let found = sms(&child.does("sms"));
                let status = child.does("status");
                let has_all = |(name, sms): (&String, &Vec<u32>)| {
                    status.contains(&format!("{name}:{}:held by this", sms.len()))
                };
                if child.does("announced") == "None" && found.iter().all(has_all) {
                    return Some(found);
                }
                thread::sleep(Duration::from_millis(5));
                None
            });
            for (name, sms) in found.unwrap() {
                self.held.insert(name, (at, sms));
            }
        }
        self.check();
    }
}

#[test]
fn no_sm_is_ever_two_live_processes() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut children = Children::new();
    let (mut got, mut refused, mut changed) = (0, 0, 0);
    for _ in 0..steps() {
        let at = random.below(CHILDREN as u64) as usize;
        let name = format!("n{}", random.below(4));
        let size = 8 * (1 + random.below(6));
        let change = format!("set-from-outside 2000 n{}={size}", random.below(3));
        match random.below(20) {
            0 => children.kill(at),
            1 => {
                // In the middle of a change.
                children.all[at].tell(&change);
                thread::sleep(Duration::from_micros(random.below(4000)));
                children.kill(at);
                children.look();
            }
            2 | 3 => {
                children.forget(at);
                children.all[at].does("drop");
            }
            4..=7 => {
                let answer = children.all[at].ask(&change).unwrap();
                // Before the first plan, or more than there is.
                let is_refused =
                    answer.contains("no plan is in force") || answer.starts_with("error");
                assert!(answer.starts_with("ok ") || is_refused, "{answer}");
                changed += usize::from(answer.starts_with("ok "));
                children.look();
            }
            8..=10 if children.holds(at, &name) => {
                children.held.remove(&name);
                children.all[at].does(&format!("leave {name}"));
            }
            _ if children.holds(at, &name) => {}
            _ if children.claim(at, &name) => got += 1,
            _ => refused += 1,
        }
    }
    assert!(
        got > 20 && refused > 20 && changed > 20,
        "{got} {refused} {changed}"
    );
}
