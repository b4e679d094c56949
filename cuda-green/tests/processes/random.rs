//! Random joins, departures and kills: no SM is ever two live processes' at once.

use std::collections::BTreeMap;

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

#[test]
fn no_sm_is_ever_two_live_processes() {
    const CHILDREN: usize = 4;
    let list = "n0=24,n1=24,n2=40,n3=rest";
    let folder = Folder::new("random");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut children: Vec<Child> = (0..CHILDREN).map(|_| Child::start(&folder)).collect();
    let mut joined = [false; CHILDREN];
    // Which child has which name, with the SMs that its blocks ran on.
    let mut held: BTreeMap<String, (usize, Vec<u32>)> = BTreeMap::new();
    let (mut got, mut refused) = (0, 0);
    for _ in 0..steps() {
        let at = random.below(CHILDREN as u64) as usize;
        let name = format!("n{}", random.below(4));
        match random.below(16) {
            0 => {
                held.retain(|_, (holder, _)| *holder != at);
                joined[at] = false;
                std::mem::replace(&mut children[at], Child::start(&folder)).kill();
            }
            1 | 2 => {
                held.retain(|_, (holder, _)| *holder != at);
                joined[at] = false;
                children[at].does("drop");
            }
            3..=6 if held.get(&name).is_some_and(|(holder, _)| *holder == at) => {
                held.remove(&name);
                children[at].does(&format!("leave {name}"));
            }
            _ if held.get(&name).is_some_and(|(holder, _)| *holder == at) => {}
            _ => {
                let command = if joined[at] {
                    format!("claim {name}")
                } else {
                    format!("join 0 {list} {name}")
                };
                let answer = children[at].ask(&command).unwrap();
                if let Some(answer) = answer.strip_prefix("ok ") {
                    joined[at] = true;
                    got += 1;
                    assert!(!held.contains_key(&name), "{name} is two processes'");
                    let mine = sms(answer).remove(&name).unwrap();
                    for (other, (_, others)) in &held {
                        assert!(
                            mine.iter().all(|sm| !others.contains(sm)),
                            "{name} and {other}"
                        );
                    }
                    held.insert(name, (at, mine));
                } else {
                    refused += 1;
                    assert!(held.contains_key(&name), "{name} is free: {answer}");
                    assert!(answer.contains("held by process"), "{answer}");
                }
            }
        }
    }
    assert!(got > 20 && refused > 20, "{got} {refused}");
}
