//! Threads that create, use and destroy contexts of one manager at once, on simulated drivers: a ledger
//! says who has each SM, and nobody is ever given one that another has.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use cuda_green::{
    ContextId, Driver, Error, GreenContextConfig, Kernel, LaunchConfig, Module, SmPartitionManager,
    kernels, sim::Sim,
};

const THREADS: usize = 4;
const STEPS: usize = 400;

thread_local! {
    /// The SMs of this thread's last launch: a simulated kernel runs where it is launched.
    static SEEN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

struct World {
    manager: SmPartitionManager<usize>,
    kernel: Kernel,
    /// The thread that has each SM, or 0.
    ledger: Vec<AtomicUsize>,
}

impl World {
    /// Notes who has these from now on; they were another's until then.
    fn book(&self, sms: &[u32], from: usize, to: usize) {
        for sm in sms {
            let before = self.ledger[*sm as usize].swap(to, Ordering::SeqCst);
            assert_eq!(before, from, "SM {sm} is given to {to}");
        }
    }

    /// One thread: contexts under names of its own, and now and then a look at another's.
    fn run(&self, thread: usize) {
        let mut random = thread as u64;
        let mut below = |n: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((random >> 33) % n as u64) as usize
        };
        let mut own: Vec<Option<Vec<u32>>> = vec![None; 3];
        for step in 0..STEPS + own.len() {
            let slot = if step < STEPS { below(3) } else { step - STEPS };
            let id = thread * 3 + slot;
            if let Some(sms) = own[slot].take() {
                self.book(&sms, thread, 0);
                match self.manager.destroy_context(id) {
                    Ok(()) => continue,
                    // Another thread looks at it; nobody has got its SMs.
                    Err(Error::ContextInUse { .. }) => {
                        self.book(&sms, 0, thread);
                        own[slot] = Some(sms);
                    }
                    Err(error) => panic!("{error}"),
                }
            } else if step < STEPS {
                let config = GreenContextConfig {
                    sm_count: [2, 8, 20, 40][below(4)],
                    ..GreenContextConfig::default()
                };
                match self.manager.create_context(id, config) {
                    Ok(context) => {
                        let stream = context.create_stream().unwrap();
                        // SAFETY: as a simulated one, the kernel looks at neither argument.
                        unsafe {
                            let shape = LaunchConfig::linear(1, 32);
                            stream.launch(&self.kernel, &shape, &[&0u64, &0u32])
                        }
                        .unwrap();
                        let sms = SEEN.with_borrow(Clone::clone);
                        assert_eq!(sms.len(), context.sm_count() as usize);
                        self.book(&sms, 0, thread);
                        own[slot] = Some(sms);
                    }
                    Err(Error::InsufficientSms { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            let status = self.manager.allocation_status();
            assert!(status.allocated_sms <= status.total_sms, "{status}");
            match self.manager.activate(3 + below(THREADS * 3)) {
                Ok(guard) => guard.close().unwrap(),
                Err(Error::NoSuchContext { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // What others looked at until now.
        for (slot, sms) in own.into_iter().enumerate() {
            let Some(sms) = sms else { continue };
            self.book(&sms, thread, 0);
            while let Err(error) = self.manager.destroy_context(thread * 3 + slot) {
                assert!(matches!(error, Error::ContextInUse { .. }), "{error}");
                std::thread::yield_now();
            }
        }
    }
}

fn nobody_gets_what_another_has(profile: &str) {
    let simulator = Sim::new(profile).unwrap();
    let _nothing_is_left = simulator.leak_guard();
    simulator.register_kernel(kernels::BURN, |launch| {
        SEEN.with_borrow_mut(|seen| {
            seen.clear();
            seen.extend_from_slice(launch.sm_ids());
        });
    });
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let module = Module::load_ptx(&device, kernels::PTX).unwrap();
    let world = World {
        manager: SmPartitionManager::with_ids(&device).unwrap(),
        kernel: module.kernel(kernels::BURN).unwrap(),
        ledger: (0..1024).map(|_| AtomicUsize::new(0)).collect(),
    };
    std::thread::scope(|scope| {
        for thread in 1..=THREADS {
            let world = &world;
            scope.spawn(move || world.run(thread));
        }
    });
    assert_eq!(world.manager.allocation_status().allocated_sms, 0);
}

#[test]
fn equal_groups() {
    nobody_gets_what_another_has("h200@12.4");
}

#[test]
fn merged_units() {
    nobody_gets_what_another_has("h200@13.0");
}

#[test]
fn structured() {
    nobody_gets_what_another_has("rtx5090@13.1");
}

/// What a thread keeps for its end may still ask for no current context then, when this crate's own hold on what
/// was current is gone; what would need that hold is refused.
#[test]
fn a_thread_that_ends_can_still_leave_its_context() {
    type AtEnd = Box<dyn FnOnce()>;
    struct Last(RefCell<Option<AtEnd>>);
    impl Drop for Last {
        fn drop(&mut self) {
            if let Some(at_end) = self.0.take() {
                at_end();
            }
        }
    }
    thread_local! {
        static LAST: Last = const { Last(RefCell::new(None)) };
    }
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let manager = Arc::new(SmPartitionManager::on(&device).unwrap());
    manager.init_quad_partition().unwrap();
    let (told, answers) = mpsc::channel();
    let of_thread = manager.clone();
    let thread = std::thread::spawn(move || {
        let manager = of_thread.clone();
        LAST.with(|last| {
            // A panic here would end the process.
            let at_end = move || {
                let set = || manager.set_current(ContextId::Dream).map_err(drop);
                let answer = catch_unwind(AssertUnwindSafe(|| {
                    (manager.unset_current().map_err(drop), set())
                }));
                told.send(answer.map_err(drop)).unwrap();
            };
            *last.0.borrow_mut() = Some(Box::new(at_end));
        });
        of_thread.set_current(ContextId::Dream).unwrap();
    });
    thread.join().unwrap();
    assert_eq!(answers.recv(), Ok(Ok((Ok(()), Err(())))));
    manager.destroy_context(ContextId::Dream).unwrap();
}
