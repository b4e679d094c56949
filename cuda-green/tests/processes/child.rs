//! The program of a child: it does what it is told.

use std::{
    collections::BTreeMap,
    io::{BufRead, Write},
    os::unix::process::CommandExt,
    path::Path,
    process,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    thread,
    time::Duration,
};

use cuda_green::{
    ContextPolicy, CudaDevice, Driver, Error, GreenContext, LaunchConfig, Module, PartitionStream,
    PlanChange, Result, SharedDevice, SharedPlan, SharingError, SharingStep, SmPartitionManager,
    SmResource, kernels, on_sharing_step,
    planner::{PartitionRequest, SmRequest},
    sim::Sim,
};

use super::separation;

pub const VARIABLE: &str = "CUDA_GREEN_TEST_CHILD";

/// The steps at which a child can be stopped: those of joining and leaving, in their order, and then those of a change.
pub const STEPS: [SharingStep; 19] = [
    SharingStep::Agreed, // the only one at which a process keeps nobody out
    SharingStep::Planning,
    SharingStep::PlanWritten,
    SharingStep::PlanReplaced,
    SharingStep::NameLocked,
    SharingStep::NameRecorded,
    SharingStep::Claimed,
    SharingStep::Made,
    SharingStep::Leaving,
    SharingStep::RecordCleared,
    SharingStep::Numbered,
    SharingStep::NextWritten,
    SharingStep::Announced,
    SharingStep::AllLeft,
    SharingStep::InForce,
    SharingStep::Withdrawn,
    SharingStep::Left,
    SharingStep::LeftRecorded,
    SharingStep::Taken,
];
/// The number of the steps of joining and leaving.
pub const JOIN_STEPS: usize = 10;

/// The step at which to stop, from 1, and by which signal.
static STOP_AT: AtomicU8 = AtomicU8::new(0);
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// Whether the kernels of [`kernels::BURN`] go on.
static WORKS: AtomicBool = AtomicBool::new(false);

fn stop(step: SharingStep) {
    let at = usize::from(STOP_AT.load(Ordering::Relaxed));
    if at.checked_sub(1).and_then(|at| STEPS.get(at)) == Some(&step) {
        STOP_AT.store(0, Ordering::Relaxed);
        // To this thread: one to the process could reach another first, and this one would go on meanwhile.
        // SAFETY: a signal to this process.
        unsafe { libc::raise(i32::from(SIGNAL.load(Ordering::Relaxed))) };
    }
}

struct Child {
    device: CudaDevice,
    folder: String,
    manager: Option<SmPartitionManager<String>>,
    kept: BTreeMap<String, GreenContext>,
    kept_sms: BTreeMap<String, SmResource>,
    streams: BTreeMap<String, PartitionStream>,
}

impl Child {
    fn plan(&self, list: &str, patience: u64) -> SharedPlan {
        let plan = match list {
            "any" => SharedPlan::in_force(),
            list => SharedPlan::of(list.split(',').map(|one| {
                let (name, sms) = one.split_once('=').unwrap();
                let request = match sms {
                    "rest" => PartitionRequest::rest(),
                    sms => PartitionRequest::at_least(sms.parse().unwrap()),
                };
                (name, request)
            })),
        };
        let mut plan = plan.wait(Duration::from_millis(patience));
        if std::env::var_os(separation::VARIABLE).is_some() {
            let arguments = ["processes::separation::partner", "--exact", "--nocapture"];
            plan = plan.tested_by(std::env::current_exe().unwrap(), arguments);
        }
        match self.folder.as_str() {
            "-" => plan, // where the environment says
            folder => plan.in_folder(folder),
        }
    }

    /// Does what a line says; returns the answer.
    fn obey(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let policy = ContextPolicy::default();
        match words.as_slice() {
            ["join", patience, list] => self.obey(&format!("join {patience} {list} ")),
            ["join", patience, list, names] => {
                let names = names.split(',').filter(|name| !name.is_empty());
                let claims: Vec<(&str, ContextPolicy)> = names.map(|name| (name, policy)).collect();
                let plan = self.plan(list, patience.parse().unwrap());
                let manager = SmPartitionManager::join(&self.device, &plan, &claims)?;
                let answer = sms(&manager)?;
                self.manager = Some(manager);
                Ok(answer)
            }
            ["claim", name] => {
                let manager = self.manager.as_ref().unwrap();
                manager.claim(name, policy)?;
                sms(manager)
            }
            ["leave", name] => {
                let manager = self.manager.as_ref().unwrap();
                manager.destroy_context(*name)?;
                sms(manager)
            }
            ["keep", name] => {
                let context = self.manager.as_ref().unwrap().get_context(*name)?;
                self.kept.insert((*name).to_owned(), context);
                Ok(String::new())
            }
            ["keep-sms", name] => {
                let context = self.manager.as_ref().unwrap().get_context(*name)?;
                let sms = context.sm_resource()?;
                self.kept_sms.insert((*name).to_owned(), sms);
                Ok(String::new())
            }
            ["let-go", name] => {
                self.kept.remove(*name);
                self.kept_sms.remove(*name);
                Ok(String::new())
            }
            ["drop"] => {
                self.manager = None;
                Ok(String::new())
            }
            ["status"] => {
                let status = self.manager.as_ref().unwrap().allocation_status();
                let shared = status.shared.as_ref().unwrap();
                let names = shared.names.iter();
                let names =
                    names.map(|one| format!("{}:{}:{}", one.name, one.sm_count, one.holder));
                Ok(format!(
                    "{} {} {}",
                    shared.generation,
                    status.green_contexts,
                    names.collect::<Vec<_>>().join("; ")
                ))
            }
            ["announced"] => {
                let status = self.manager.as_ref().unwrap().allocation_status();
                Ok(format!("{:?}", status.shared.unwrap().announced))
            }
            ["sms"] => sms(self.manager.as_ref().unwrap()),
            // Of this process, or by one that holds nothing, which waits as long.
            ["set", shares] => {
                let manager = self.manager.as_ref().unwrap();
                let change = manager.set_shares(&requests(shares))?;
                Ok(told(&change))
            }
            ["set-from-outside", patience, shares] => {
                let folder = Path::new(&self.folder);
                let plans = SharedDevice::list(Some(folder))?;
                let plan = plans.first().ok_or(SharingError::NoPlan)?;
                let patience = patience
                    .parse()
                    .map_or(Duration::MAX, Duration::from_millis);
                Ok(told(&plan.set_shares(&requests(shares), patience)?))
            }
            ["stream", name] => {
                let stream = self.manager.as_ref().unwrap().create_stream(*name)?;
                self.streams.insert((*name).to_owned(), stream);
                Ok(String::new())
            }
            // The SMs of the context that work of the stream goes to.
            ["stream-sms", name] => {
                let sms = self.streams[*name].with(|stream| Ok(stream.context().sm_count()))?;
                Ok(sms.to_string())
            }
            // A kernel that goes on until it is told to end.
            ["work", name] => {
                WORKS.store(true, Ordering::Release);
                let kernel = Module::load_ptx(&self.device, kernels::PTX)?.kernel(kernels::BURN)?;
                let config = LaunchConfig::linear(1, 1);
                // SAFETY: the function in its place takes nothing.
                unsafe { self.streams[*name].launch(&kernel, &config, &[&0u64, &0u32]) }?;
                Ok(String::new())
            }
            ["end-work"] => {
                WORKS.store(false, Ordering::Release);
                Ok(String::new())
            }
            // Two threads of one manager; returns how many of them got it.
            ["claim-twice", name] => {
                let manager = self.manager.as_ref().unwrap();
                let got = thread::scope(|scope| {
                    let claims =
                        [0, 1].map(|_| scope.spawn(|| manager.claim(name, policy).is_ok()));
                    claims.map(|claim| claim.join().unwrap())
                });
                Ok(got.iter().filter(|got| **got).count().to_string())
            }
            ["separation"] => {
                let status = self.manager.as_ref().unwrap().allocation_status();
                Ok(status.shared.unwrap().separation.to_string())
            }
            ["mps"] => {
                let mps = self.device.mps_status()?;
                Ok(format!(
                    "{} / {} / {:?} / {} SMs / {} / {:?} / {}",
                    mps.in_use,
                    mps.daemon,
                    mps.servers,
                    mps.sm_count,
                    mps.refuses_splits.unwrap_or_default(),
                    mps.thread_percentage,
                    mps.compute_mode.unwrap(),
                ))
            }
            ["rebalance"] => {
                self.manager
                    .as_ref()
                    .unwrap()
                    .rebalance_for(None, Default::default())?;
                Ok(String::new())
            }
            ["create"] => {
                let manager = self.manager.as_ref().unwrap();
                manager.create_partition("more".into(), PartitionRequest::at_least(8), policy)?;
                Ok(String::new())
            }
            ["at", step, signal] => {
                STOP_AT.store(step.parse::<u8>().unwrap() + 1, Ordering::Relaxed);
                SIGNAL.store(signal.parse().unwrap(), Ordering::Relaxed);
                Ok(String::new())
            }
            ["ignore-term"] => {
                // SAFETY: no handler is installed, so nothing runs in one.
                unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
                Ok(String::new())
            }
            ["fork"] => Ok(self.fork()),
            // As a daemon that has no terminal, and writes to it all the same.
            ["join-without-terminal", list, name] => {
                for descriptor in [libc::STDIN_FILENO, libc::STDERR_FILENO] {
                    // SAFETY: nothing here uses it any more, but for what is tested.
                    unsafe { libc::close(descriptor) };
                }
                let joined = self.obey(&format!("join 0 {list} {name}"));
                eprintln!(
                    "a line of a log, which is long enough to be seen where it does not belong"
                );
                joined
            }
            ["default-pipe-signal"] => {
                // SAFETY: no handler is installed, so nothing runs in one.
                unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
                Ok(String::new())
            }
            ["execute-again"] => {
                let program = std::env::current_exe().unwrap();
                let arguments = std::env::args_os().skip(1);
                panic!("{}", process::Command::new(program).args(arguments).exec());
            }
            #[cfg(feature = "tracing")]
            ["subscribe", what] => {
                subscribers::install(what, self.manager.take().unwrap());
                Ok(String::new())
            }
            #[cfg(feature = "tracing")]
            ["heard"] => Ok(subscribers::heard()),
            other => panic!("{other:?}"),
        }
    }

    /// Forks a child that uses what it has inherited, drops it, and then lives on; returns its id.
    fn fork(&mut self) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the child touches what it inherited, says so and waits; this process has one thread that matters.
        let child = unsafe { libc::fork() };
        if child == 0 {
            drop(reader);
            let status = self.manager.as_ref().unwrap().allocation_status();
            let shared = status.shared.map_or(0, |shared| shared.names.len());
            let claimed = self
                .manager
                .as_ref()
                .unwrap()
                .claim("b", ContextPolicy::default());
            self.manager = None; // gives nothing back that is the parent's
            let mut writer = writer;
            let said = format!("{shared} {}\n", claimed.is_err());
            let _ = writer.write_all(said.as_bytes());
            drop(writer);
            // If the test fails, nobody else ends this process, which holds the test's output.
            // SAFETY: a signal that ends this process.
            unsafe { libc::alarm(60) };
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        drop(writer);
        let mut said = String::new();
        std::io::Read::read_to_string(&mut reader, &mut said).unwrap();
        format!("{child} {}", said.trim())
    }
}

/// Reads a list of names and their shares.
fn requests(list: &str) -> Vec<(&str, SmRequest)> {
    list.split(',')
        .map(|one| {
            let (name, sms) = one.split_once('=').unwrap();
            match sms {
                "rest" => (name, SmRequest::Rest),
                sms => (name, SmRequest::AtLeast(sms.parse().unwrap())),
            }
        })
        .collect()
}

fn told(change: &PlanChange) -> String {
    let names = change.names.iter();
    let names = names.map(|one| format!("{}:{}", one.name, one.sms_after));
    let names: Vec<String> = names.collect();
    format!(
        "{} {} behind {:?} {}us",
        change.generation,
        names.join(","),
        change.behind,
        change.took.as_micros()
    )
}

/// Returns each name with the SMs on which its blocks run.
fn sms(manager: &SmPartitionManager<String>) -> Result<String> {
    let mut answer = Vec::new();
    for context in manager.allocation_status().contexts {
        // Of this context: the name may have another one by now than it had in the status.
        let held = manager.get_context(&context.id)?;
        let ids = held.observed_sm_ids()?;
        assert_eq!(ids.len(), held.sm_count() as usize);
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        answer.push(format!("{}:{}", context.id, ids.join(",")));
    }
    Ok(answer.join(" "))
}

/// The program of a child; in the parent it is a test that does nothing.
#[test]
fn child() {
    let Ok(what) = std::env::var(VARIABLE) else {
        return;
    };
    let (spec, folder) = what.split_once(' ').unwrap();
    on_sharing_step(stop);
    let simulator = Sim::new(spec.strip_prefix("sim:").unwrap()).unwrap();
    simulator.register_concurrent_kernel(kernels::BURN, |launch| {
        while WORKS.load(Ordering::Acquire) && !launch.is_stopped() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let device = Driver::simulated(&simulator).unwrap().device(0).unwrap();
    let mut child = Child {
        device,
        folder: folder.to_owned(),
        manager: None,
        kept: BTreeMap::new(),
        kept_sms: BTreeMap::new(),
        streams: BTreeMap::new(),
    };
    println!("\n@ ready");
    for line in std::io::stdin().lock().lines() {
        let answer = match child.obey(&line.unwrap()) {
            Ok(answer) => format!("ok {answer}"),
            Err(error @ Error::Sharing(_)) => format!("sharing {error}"),
            Err(error) => format!("error {error}"),
        };
        println!("@ {answer}");
    }
    // As a program ends that does not clean up.
    process::exit(0);
}

/// Subscribers that do what they should not on the thread by which a manager follows changes.
#[cfg(feature = "tracing")]
mod subscribers {
    use std::sync::{Mutex, OnceLock};

    use cuda_green::{SmPartitionManager, planner::SmRequest};
    use tracing::{Event, Metadata, Subscriber, span};

    static MANAGER: OnceLock<SmPartitionManager<String>> = OnceLock::new();
    static HEARD: Mutex<String> = Mutex::new(String::new());

    enum Does {
        Panics,
        SetsShares,
    }

    /// Subscribes to what the manager tells, which is kept.
    pub fn install(what: &str, manager: SmPartitionManager<String>) {
        let does = match what {
            "panics" => Does::Panics,
            "sets" => Does::SetsShares,
            other => panic!("{other}"),
        };
        assert!(MANAGER.set(manager).is_ok());
        tracing::subscriber::set_global_default(does).unwrap();
    }

    pub fn heard() -> String {
        HEARD.lock().unwrap().clone()
    }

    impl Subscriber for Does {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "cuda_green::partitions"
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let follows = std::thread::current().name() == Some("cuda-green-plan");
            if !follows || event.metadata().fields().field("generation").is_none() {
                return;
            }
            if let Self::Panics = self {
                panic!("this subscriber panics");
            }
            let shares = [("a", SmRequest::AtLeast(16))];
            let refused = MANAGER.get().unwrap().set_shares(&shares).unwrap_err();
            *HEARD.lock().unwrap() = refused.to_string();
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }
}
