//! Events of a manager for the `tracing` facade. In one test, which compares their names with the guide's table.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use cuda_green::{
    ContextId, ContextPolicy, Driver, GreenContextConfig, HandOff, RebalanceHint, SharedPlan,
    SmPartitionManager,
    planner::{PartitionRequest, SmRequest},
    sim::Sim,
    sys::CUresult,
};

use crate::{alone, subscriber::Subscriber};

/// The names of all events that were heard.
static NAMES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What is heard of an action, without a message's other words.
fn heard(at_each: impl Fn() + Send + Sync + 'static, action: impl FnOnce()) -> Vec<String> {
    let subscriber = Subscriber::new("cuda_green::partitions", at_each);
    tracing::subscriber::with_default(subscriber.clone(), action);
    let heard = subscriber.heard();
    let names = heard.iter().filter_map(|event| {
        let (_, from_name) = event.split_once("message=")?;
        let (name, _) = from_name.split_once(" device=")?;
        Some(name.to_owned())
    });
    NAMES.lock().unwrap().extend(names);
    heard
}

fn manager(profile: &str) -> (Sim, Arc<SmPartitionManager>) {
    let simulator = Sim::new(profile).unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    (
        simulator,
        Arc::new(SmPartitionManager::on(&device).unwrap()),
    )
}

#[test]
fn the_tracing_facade_hears_what_happens() {
    let _alone = alone();
    partitions_and_rebalances();
    refusals();
    refused_plans();
    contexts_that_stay();
    single_context_mode();
    #[cfg(target_os = "linux")]
    shares_among_processes();
    let guide = include_str!("../../guide/observing.md");
    let (_, events) = guide.split_once("| event of").unwrap();
    let rows = events.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented = rows.filter_map(|row| row.split_once('`'));
    let documented: BTreeSet<_> = documented.map(|(name, _)| name.to_owned()).collect();
    assert_eq!(
        *NAMES.lock().unwrap(),
        documented,
        "the guide's table has what is told"
    );
}

/// Whoever hears an event may call the manager, from this thread and from others: no lock is held then.
fn partitions_and_rebalances() {
    let (_simulator, manager) = manager("h200@13.0");
    let in_event = {
        let manager = Arc::clone(&manager);
        move || {
            drop(manager.allocation_status());
            let other = Arc::clone(&manager);
            let change = move || other.init_quad_partition().is_err();
            assert!(
                std::thread::spawn(change).join().unwrap(),
                "it is partitioned"
            );
        }
    };
    let dream = Mutex::new(None);
    let events = heard(in_event, || {
        manager.init_quad_partition().unwrap();
        *dream.lock().unwrap() = Some(manager.get_context(ContextId::Dream).unwrap());
        manager.rebalance(RebalanceHint::EmbeddingHeavy).unwrap();
        manager
            .rebalance_with(RebalanceHint::Balanced, HandOff::Relaxed)
            .unwrap();
        let training = manager.get_context(ContextId::Training).unwrap();
        training.provision_threads(2).unwrap();
        drop(training);
        manager.release_retired().unwrap();
        manager.destroy_context(ContextId::Training).unwrap();
    });
    let created = |sms| format!("DEBUG message=created a green context device=0 sms={sms}");
    let retired = |sms| {
        [
            format!("DEBUG message=gave up a retired context device=0 sms={sms}"),
            format!("DEBUG message=destroyed a context device=0 sms={sms} green_contexts=1"),
        ]
    };
    let mut expected = [32, 32, 32, 36].map(created).to_vec();
    expected.push("INFO message=partitioned the device device=0 strategy=STRATEGY partitions=\"Embedding: 32, Dream: 32, Training: 32, Reserved: 36\"".to_owned());
    expected.extend([80, 16, 16, 20].map(created));
    expected.extend([
        "INFO message=rebalanced device=0 favoured=\"Embedding\" hand_off=\"strict\" made_contexts=4".to_owned(),
        "INFO message=rebalanced device=0 hand_off=\"relaxed\" made_contexts=0".to_owned(),
        "DEBUG message=created a sibling for a further thread device=0".to_owned(),
    ]);
    expected.extend([80, 16, 16, 20].into_iter().flat_map(retired));
    expected.extend([
        "DEBUG message=destroyed a context device=0 sms=32 green_contexts=2".to_owned(),
        "INFO message=destroyed a partition device=0 partition=\"Training\"".to_owned(),
    ]);
    let strategy = manager.allocation_status().strategy.unwrap().to_string();
    let expected: Vec<_> = expected
        .iter()
        .map(|line| line.replace("STRATEGY", &strategy))
        .collect();
    assert_eq!(events, expected);
}

fn refusals() {
    let (_simulator, manager) = manager("h200@13.0");
    let config = GreenContextConfig {
        sm_count: 200,
        ..GreenContextConfig::default()
    };
    let events = heard(
        || {},
        || {
            manager
                .create_context(ContextId::Dream, config)
                .unwrap_err();
            let request = PartitionRequest::at_least(16);
            manager
                .create_partition(ContextId::Dream, request, config.policy())
                .unwrap();
            manager
                .rebalance(RebalanceHint::EmbeddingHeavy)
                .unwrap_err();
        },
    );
    let begins = |event: &String, with: &str| assert!(event.starts_with(with), "{event}");
    begins(
        &events[0],
        "WARN message=refused device=0 operation=\"create\" kind=\"insufficient_sms\" error=\"",
    );
    begins(
        &events[1],
        "DEBUG message=created a green context device=0 sms=16",
    );
    begins(
        &events[2],
        "INFO message=created a partition device=0 partition=\"Dream\" sms=16",
    );
    begins(
        &events[3],
        "WARN message=refused device=0 operation=\"rebalance\" kind=\"no_such_context\" error=\"there is no context Embedding\"",
    );
    assert_eq!(events.len(), 4);
}

fn refused_plans() {
    let (simulator, manager) = manager("h200@13.1");
    let code = CUresult::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    simulator.fail("cuDevSmResourceSplit", 1, code).unwrap();
    let events = heard(|| {}, || manager.init_quad_partition().unwrap());
    let told = |event: &&String| event.contains("the driver refused a better plan");
    let refused = manager.allocation_status().refused;
    let arrangements: u32 = refused.iter().map(|plan| plan.arrangements).sum();
    let events_of_them = events.iter().filter(told).count();
    // The dry run of a plan and the making of it are refused apart.
    assert!(
        arrangements > 0 && events_of_them >= arrangements as usize,
        "{events:?}"
    );
    assert!(
        events[0].starts_with("INFO message=the driver refused a better plan device=0 strategy=")
    );
}

fn contexts_that_stay() {
    let (_simulator, manager) = manager("h200@13.0");
    manager.init_quad_partition().unwrap();
    let dream = manager.get_context(ContextId::Dream).unwrap();
    std::mem::forget(dream.activate().unwrap());
    drop(dream);
    let events = heard(|| {}, || drop(manager));
    let kept = "WARN message=a context stays until the process ends device=0 sms=32 reason=\"a guard was forgotten\"";
    assert!(events.iter().any(|event| event == kept), "{events:?}");
}

fn single_context_mode() {
    let events = heard(|| {}, || drop(manager("h200@12.3")));
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(
        events[0].starts_with(
            "WARN message=single-context mode: nothing is isolated device=0 reason=\""
        )
    );
}

/// The manager that changes the plan tells of it, and its thread of what it follows.
#[cfg(target_os = "linux")]
fn shares_among_processes() {
    let folder = std::env::temp_dir().join(format!("cuda-green-tracing-{}", std::process::id()));
    let simulator = Sim::new("h200@13.0").unwrap();
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let plan = SharedPlan::of([
        ("a", PartitionRequest::at_least(64)),
        ("b", PartitionRequest::rest()),
    ]);
    let plan = plan.in_folder(&folder);
    let claims = [("a", ContextPolicy::default())];
    let manager = SmPartitionManager::join(&device, &plan, &claims).unwrap();
    // Of every thread of this process.
    let everywhere = Subscriber::new("cuda_green::partitions", || {});
    tracing::subscriber::set_global_default(everywhere.clone()).unwrap();
    let changed = heard(
        || {},
        || {
            manager
                .set_shares(&[("a", SmRequest::AtLeast(96))])
                .unwrap();
            manager
                .set_shares(&[("c", SmRequest::AtLeast(8))])
                .unwrap_err();
        },
    );
    assert_eq!(
        changed,
        [
            "INFO message=changed the plan among processes device=0 generation=2 partitions=\"a: 96, b: 36\"",
            "WARN message=refused device=0 operation=\"set_shares\" kind=\"sharing\" error=\"the plan in force has no partition \\\"c\\\"; it has a, b\"",
        ]
    );
    let followed = "INFO message=followed the plan among processes device=0 partition=\"a\" sms=96 generation=2";
    // The change has waited until all had followed, or nearly.
    while !everywhere.heard().iter().any(|event| event == followed) {
        std::thread::yield_now();
    }
    NAMES
        .lock()
        .unwrap()
        .insert("followed the plan among processes".to_owned());
    drop(manager);
    std::fs::remove_dir_all(&folder).unwrap();
}
