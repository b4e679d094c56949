//! A limit for what must not wait for itself.

use std::{sync::mpsc, time::Duration};

/// Runs something that would wait for itself for ever if a lock were held that it asks for.
pub fn ends(action: impl FnOnce() + Send + 'static) {
    let (told, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        action();
        told.send(()).unwrap();
    });
    // Far longer than it takes: only who waits for ever waits as long.
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it waits for itself"),
        _ => thread.join().unwrap(),
    }
}
