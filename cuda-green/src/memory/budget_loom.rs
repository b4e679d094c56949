//! Every interleaving of a few threads over the accounting, by loom.

use std::sync::Arc;

use super::budget::{Account, Budget};

/// A device over two contexts; two threads in one and one in the other.
fn world(device: u64, contexts: [u64; 2]) -> (Budget<()>, Arc<[Account<()>; 2]>) {
    let budget = Budget::new(device);
    let accounts = contexts.map(|limit| Account::new(&budget.child(limit), [()]));
    (budget, Arc::new(accounts))
}

/// 8 are asked for that the device never has. Rolled back level by level, that request would make the
/// other thread's 3 fail, which fit at every moment.
#[test]
fn a_doomed_request_never_makes_a_fitting_one_fail() {
    loom::model(|| {
        let (budget, accounts) = world(5, [10, 10]);
        let doomed = {
            let accounts = accounts.clone();
            loom::thread::spawn(move || assert!(accounts[0].take(0, 8).is_err()))
        };
        drop(accounts[0].take(0, 3).unwrap());
        accounts[0].give(0, 3, |()| ());
        doomed.join().unwrap();
        assert_eq!(budget.figures().used, 0);
    });
}

/// What is free moves from one purse to another meanwhile; there are always 4000 free.
#[test]
fn bytes_on_their_way_between_purses_are_counted() {
    loom::model(|| {
        let (budget, accounts) = world(8192, [8192, 8192]);
        drop(accounts[0].take(0, 4000).unwrap());
        let mover = {
            let accounts = accounts.clone();
            loom::thread::spawn(move || {
                accounts[0].give(0, 4000, |()| ());
                drop(accounts[1].take(0, 4000).unwrap());
            })
        };
        drop(accounts[1].take(0, 4192).unwrap());
        mover.join().unwrap();
        assert_eq!(budget.figures().used, 8192);
        assert!(accounts[0].take(0, 1).is_err());
    });
}

/// Eight bytes are free at every moment, now in one purse and now in the other: whoever looked at one purse
/// after the other, and not at both at once, could miss them.
#[test]
fn purses_are_looked_into_at_one_moment() {
    loom::model(|| {
        let (budget, accounts) = world(8192, [8192, 8192]);
        drop(accounts[0].take(0, 8184).unwrap());
        drop(accounts[1].take(0, 8).unwrap());
        accounts[1].give(0, 8, |()| ());
        let mover = {
            let accounts = accounts.clone();
            loom::thread::spawn(move || {
                accounts[0].give(0, 8, |()| ());
                drop(accounts[1].take(0, 8).unwrap());
            })
        };
        drop(accounts[0].take(0, 8).unwrap());
        mover.join().unwrap();
        assert_eq!(budget.figures().used, 8192);
    });
}

/// Two threads ask for more than half: never both get it, and never neither.
#[test]
fn exactly_one_of_two_gets_what_fits_once() {
    loom::model(|| {
        let (budget, accounts) = world(5000, [5000, 5000]);
        let other = {
            let accounts = accounts.clone();
            loom::thread::spawn(move || accounts[1].take(0, 3000).is_ok())
        };
        let mine = accounts[0].take(0, 3000).is_ok();
        assert!(mine ^ other.join().unwrap());
        assert_eq!(budget.figures().used, 3000);
    });
}
