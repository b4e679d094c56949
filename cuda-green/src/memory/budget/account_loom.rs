//! Every interleaving of a few threads over the accounting, by loom.

use std::sync::Arc;

use super::account::{Account, Limit};

/// A device over two contexts; two threads in one and one in the other.
fn world(device: u64, contexts: [u64; 2]) -> (Limit<()>, Arc<[Account<()>; 2]>) {
    let top = Limit::new(device);
    let accounts = contexts.map(|limit| Account::new(&top.child(limit), [()]));
    (top, Arc::new(accounts))
}

/// 8 are asked for that the device never has. Rolled back level by level, that request would make the
/// other thread's 3 fail, which fit at every moment.
#[test]
fn a_doomed_request_never_makes_a_fitting_one_fail() {
    loom::model(|| {
        let (limit, accounts) = world(5, [10, 10]);
        let doomed = {
            let accounts = accounts.clone();
            loom::thread::spawn(move || assert!(accounts[0].charge(0, 8).is_err()))
        };
        drop(accounts[0].charge(0, 3).unwrap());
        accounts[0].refund(0, 3, |()| ());
        doomed.join().unwrap();
        assert_eq!(limit.figures().used, 0);
    });
}

/// Free bytes move from one shard to another meanwhile; 4000 are free at every moment.
#[test]
fn bytes_on_their_way_between_shards_are_counted() {
    loom::model(|| {
        let (limit, accounts) = world(8192, [8192, 8192]);
        drop(accounts[0].charge(0, 4000).unwrap());
        let mover = {
            let accounts = accounts.clone();
            loom::thread::spawn(move || {
                accounts[0].refund(0, 4000, |()| ());
                drop(accounts[1].charge(0, 4000).unwrap());
            })
        };
        drop(accounts[1].charge(0, 4192).unwrap());
        mover.join().unwrap();
        assert_eq!(limit.figures().used, 8192);
        assert!(accounts[0].charge(0, 1).is_err());
    });
}

/// Eight bytes are free at every moment, as credit of one shard or of the other: a thread that locked one shard after
/// the other, and not both at once, could miss them.
#[test]
fn shards_are_locked_together() {
    loom::model(|| {
        let (limit, accounts) = world(8192, [8192, 8192]);
        drop(accounts[0].charge(0, 8184).unwrap());
        drop(accounts[1].charge(0, 8).unwrap());
        accounts[1].refund(0, 8, |()| ());
        let mover = {
            let accounts = accounts.clone();
            loom::thread::spawn(move || {
                accounts[0].refund(0, 8, |()| ());
                drop(accounts[1].charge(0, 8).unwrap());
            })
        };
        drop(accounts[0].charge(0, 8).unwrap());
        mover.join().unwrap();
        assert_eq!(limit.figures().used, 8192);
    });
}

/// Two threads ask for more than half: exactly one of them gets it.
#[test]
fn exactly_one_of_two_gets_what_fits_once() {
    loom::model(|| {
        let (limit, accounts) = world(5000, [5000, 5000]);
        let other = {
            let accounts = accounts.clone();
            loom::thread::spawn(move || accounts[1].charge(0, 3000).is_ok())
        };
        let mine = accounts[0].charge(0, 3000).is_ok();
        assert!(mine ^ other.join().unwrap());
        assert_eq!(limit.figures().used, 3000);
    });
}
