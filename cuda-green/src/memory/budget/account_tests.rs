//! Accounts against a model, and from many threads.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use proptest::prelude::*;

use super::{
    MemoryPressure, PressureChange,
    account::{Account, CREDIT_SHARE, Limit},
};

const ACCOUNTS: usize = 4;

/// Returns `count` rounds, or a few in Miri, where each takes a thousand times as long.
fn rounds(count: u64) -> u64 {
    if cfg!(miri) { count / 500 } else { count }
}

/// A device budget over two contexts, of which the second has a model and a reservation:
/// the limits from the top, and the limits that each account is charged to.
struct World {
    limits: [u64; 5],
    chains: [&'static [usize]; ACCOUNTS],
    levels: Vec<Limit<()>>,
    accounts: Vec<Account<()>>,
}

impl World {
    fn new(limits: [u64; 5]) -> Option<Self> {
        let device = Limit::new(limits[0]);
        let (one, two) = (device.child(limits[1]), device.child(limits[2]));
        let model = two.child(limits[3]);
        let reserved = two.reserve(limits[4]).ok()?;
        let accounts = [&one, &two, &model, &reserved]
            .map(|level| Account::new(level, [(), (), ()]))
            .into_iter()
            .collect();
        Some(Self {
            limits,
            chains: [&[1, 0], &[2, 0], &[3, 2, 0], &[4]],
            levels: vec![device, one, two, model, reserved],
            accounts,
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take {
        account: usize,
        shard: usize,
        bytes: u64,
    },
    /// Refunds the n-th of the charges held, into any shard.
    Give { held: usize, shard: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..ACCOUNTS, 0..3usize, prop_oneof![0..40u64, 0..4_000_000u64])
            .prop_map(|(account, shard, bytes)| Step::Take { account, shard, bytes }),
        2 => (any::<prop::sample::Index>(), 0..3usize)
            .prop_map(|(held, shard)| Step::Give { held: held.index(64), shard }),
    ];
    prop::collection::vec(step, 0..120)
}

fn limit() -> impl Strategy<Value = u64> {
    prop_oneof![1..60u64, 1..20_000_000u64]
}

proptest! {
    /// A charge is granted exactly when it fits under every limit above; the figures are those of the model.
    #[test]
    fn exactly_what_fits_is_granted(
        limits in [limit(), limit(), limit(), limit(), limit()],
        steps in steps(),
    ) {
        let world = World::new(limits);
        let fits = limits[4] <= limits[2] && limits[4] <= limits[0];
        prop_assert_eq!(world.is_some(), fits);
        let Some(world) = world else { return Ok(()) };
        let mut used = [limits[4], 0, limits[4], 0, 0];
        let mut high = used;
        let mut held: Vec<(usize, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Take { account, shard, bytes } => {
                    let chain = world.chains[account];
                    let room = chain.iter().map(|i| world.limits[*i] - used[*i]).min().unwrap();
                    match world.accounts[account].charge(shard, bytes) {
                        Ok(_) => {
                            prop_assert!(bytes <= room, "{} granted of {}", bytes, room);
                            for i in chain {
                                used[*i] += bytes;
                                high[*i] = high[*i].max(used[*i]);
                            }
                            held.push((account, bytes));
                        }
                        Err(refused) => {
                            prop_assert!(bytes > room);
                            prop_assert_eq!((refused.asked, refused.available), (bytes, room));
                        }
                    }
                }
                Step::Give { held: which, shard } => {
                    if held.is_empty() { continue }
                    let (account, bytes) = held.swap_remove(which % held.len());
                    world.accounts[account].refund(shard, bytes, |()| ());
                    for i in world.chains[account] { used[*i] -= bytes }
                }
            }
            for (i, level) in world.levels.iter().enumerate() {
                let figures = level.figures();
                prop_assert_eq!(figures.used, used[i]);
                // Exact but for the credit of shards: at most a cap each, three shards an account.
                prop_assert!(figures.high >= high[i]);
                prop_assert!(figures.high - high[i] <= 12 * (world.limits[0] / CREDIT_SHARE));
            }
        }
        let World { accounts, levels, .. } = world;
        let device = levels[0].clone();
        for (account, bytes) in held { accounts[account].refund(0, bytes, |()| ()) }
        drop((accounts, levels));
        prop_assert_eq!(device.figures().used, 0);
        prop_assert_eq!(device.figures().reserved, 0);
    }

    /// With one shard, the high-water mark is exact.
    #[test]
    fn one_thread_has_an_exact_high_water_mark(
        limit in limit(),
        sizes in prop::collection::vec((0..100_000u64, any::<bool>()), 1..80),
    ) {
        let budget = Limit::new(limit);
        let account = Account::new(&budget, [()]);
        let (mut used, mut high, mut held) = (0, 0, Vec::new());
        for (bytes, give) in sizes {
            if give && let Some(bytes) = held.pop() {
                account.refund(0, bytes, |()| ());
                used -= bytes;
            } else if account.charge(0, bytes).is_ok() {
                used += bytes;
                high = high.max(used);
                held.push(bytes);
            }
            prop_assert_eq!((budget.figures().used, budget.figures().high), (used, high));
        }
    }
}

/// Threads in two contexts charge together exactly the device's limit, again and again: nothing is ever refused,
/// although most of it is credit of other threads' shards at any time.
#[test]
fn what_fits_is_never_refused_under_contention() {
    const THREADS: u64 = 8;
    const BYTES: u64 = 64 << 10;
    let device = Limit::new(THREADS * BYTES);
    let contexts = [
        device.child(THREADS / 2 * BYTES),
        device.child(THREADS / 2 * BYTES),
    ];
    let accounts = contexts
        .each_ref()
        .map(|context| Account::new(context, [(), (), (), ()]));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let account = &accounts[thread as usize % 2];
            scope.spawn(move || {
                for round in 0..rounds(5_000) {
                    // In pieces, so that much stays as credit.
                    let pieces = [1, 63, 1000, BYTES - 1064];
                    for piece in pieces {
                        drop(account.charge(thread as usize, piece).unwrap());
                    }
                    for piece in pieces {
                        account.refund((thread + round) as usize, piece, |()| ());
                    }
                }
            });
        }
    });
    assert_eq!(device.figures().used, 0);
    assert_eq!(device.figures().refusals, 0);
}

/// Threads race for more than the limit: the sum of the charges granted never exceeds it.
#[test]
fn what_does_not_fit_is_never_granted_under_contention() {
    const LIMIT: u64 = if cfg!(miri) { 1 << 17 } else { 1 << 20 };
    let device = Limit::new(LIMIT);
    let accounts = [(); 2].map(|()| Account::new(&device.child(LIMIT), [(), ()]));
    let granted = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (account, granted, refused) = (&accounts[thread as usize % 2], &granted, &refused);
            scope.spawn(move || {
                let mut held = Vec::new();
                let mut state = thread + 1;
                for _ in 0..rounds(20_000) {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let bytes = (state >> 40) % 100_000;
                    if state >> 63 == 0 || held.is_empty() {
                        match account.charge(thread as usize, bytes) {
                            Ok(shard) => {
                                drop(shard);
                                let sum = granted.fetch_add(bytes, Ordering::SeqCst) + bytes;
                                assert!(sum <= LIMIT, "{sum}");
                                held.push(bytes);
                            }
                            Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                        }
                    } else if let Some(bytes) = held.pop() {
                        granted.fetch_sub(bytes, Ordering::SeqCst);
                        account.refund(thread as usize, bytes, |()| ());
                    }
                }
                for bytes in held {
                    granted.fetch_sub(bytes, Ordering::SeqCst);
                    account.refund(thread as usize, bytes, |()| ());
                }
            });
        }
    });
    assert!(refused.into_inner() > 0, "nothing was ever tight");
    assert_eq!(device.figures().used, 0);
}

#[test]
fn watchers_hear_of_levels_once_and_with_hysteresis() {
    let budget = Limit::new(1000);
    let account = Account::new(&budget, [()]);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = heard.clone();
    budget.watch(Arc::new(move |change: PressureChange| {
        list.lock()
            .unwrap()
            .push((change.from, change.to, change.used));
    }));
    let step = |take: bool, bytes| {
        if take {
            drop(account.charge(0, bytes).unwrap());
        } else {
            account.refund(0, bytes, |()| ());
        }
        std::mem::take(&mut *heard.lock().unwrap())
    };
    use MemoryPressure::{Critical, High, Low, Medium};
    assert_eq!(step(true, 499), []);
    assert_eq!(step(true, 1), [(Low, Medium, 500)]);
    assert_eq!(step(false, 1), [], "499 is within the hysteresis");
    assert_eq!(step(true, 1), []);
    assert_eq!(step(false, 21), [(Medium, Low, 479)]);
    assert_eq!(step(true, 521), [(Low, Critical, 1000)]);
    assert_eq!(step(false, 60), [], "940 is within the hysteresis");
    assert_eq!(step(false, 20), [(Critical, High, 920)]);
    assert_eq!(step(false, 920), [(High, Low, 0)]);
}

#[test]
fn a_reservation_is_there_later_and_goes_back() {
    let device = Limit::new(100);
    let reserved = device.reserve(60).unwrap();
    let others = Account::new(&device, [()]);
    assert_eq!(others.charge(0, 41).err().unwrap().available, 40);
    let model = Account::new(&reserved, [()]);
    drop(model.charge(0, 60).unwrap());
    assert!(model.charge(0, 1).is_err());
    assert_eq!((device.figures().used, device.figures().reserved), (60, 60));
    model.refund(0, 60, |()| ());
    drop((model, reserved));
    assert_eq!((device.figures().used, device.figures().reserved), (0, 0));
    drop(others.charge(0, 100).unwrap());
}
