//! The driver's state, and what all its entry points share. Each file below this one has the entry
//! points of one part of the API, as methods of their C names.

#![allow(non_snake_case)] // the driver's own names

mod actions;
mod addresses;
mod attributes;
mod capture;
mod capture_calls;
mod context;
mod descriptors;
mod device;
mod events;
mod functions;
mod graphs;
mod green;
mod host_functions;
mod launch;
mod libraries;
mod memory;
mod modules;
mod peers;
mod pools;
mod resources;
mod splits;
mod streams;
mod virtual_memory;
mod workqueues;

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use cuda_green_sys::{CUresult, CudaVersion};

use crate::{
    LiveObject, LiveObjects, MadeAt, Profile,
    injection::{Fill, Injection, Injections},
    kernel::{Cost, Kernel, built_in, built_in_costs},
    live,
    memory::Memory,
    raw::Answer,
    timeline::{SmLimits, Timeline},
};

use capture::Capture;
use descriptors::Descriptor;
use events::Event;
use graphs::{Graph, GraphExec};
use green::Green;
use libraries::{Library, LibraryKernel};
use modules::{Function, Module};
use resources::Resource;
use streams::Stream;

/// Handles are made up of a driver's number, a running number and a kind, and never point to anything.
/// So a handle that is stale, of another kind or of another driver is always told apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Context = 1,
    Green,
    Stream,
    Event,
    Module,
    Function,
    Pool,
    Descriptor,
    Resource,
    Split,
    Workqueue,
    Graph,
    GraphExec,
    Library,
    LibraryKernel,
    Physical,
}

/// Numbers of the drivers in this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Each thread's stack of current contexts, by the driver's number.
    static STACKS: RefCell<HashMap<u64, Vec<u64>>> = RefCell::default();
}

/// A simulated driver.
pub(crate) struct Driver {
    pub(crate) profile: Profile,
    number: u64,
    state: Mutex<State>,
    /// Locked after `state` where both are needed; by itself while a kernel runs.
    memory: Mutex<Memory>,
    kernels: RwLock<HashMap<String, Kernel>>,
    costs: RwLock<HashMap<String, Cost>>,
    injections: Injections,
    /// The devices that have disappeared, a bit for each.
    lost: AtomicU32,
    /// Calls so far.
    calls: AtomicU64,
    /// Whether `trace` is there, which a call looks at without the lock.
    tracing: AtomicBool,
    /// The calls since the trace was started.
    trace: Mutex<Option<Vec<MadeAt>>>,
}

/// One device's part of the state.
struct Device {
    /// The handle of the primary context, the same for the whole process.
    primary: u64,
    /// Retains by the client. Green contexts hold the primary context too.
    retains: Vec<MadeAt>,
    /// Whether the primary context exists. The end of the last green context does not end it, only a
    /// release does (measured on an H200, driver 580).
    active: bool,
    /// Whether the primary context was ever made, so that a stale handle is told from a wrong one.
    was_active: bool,
    /// The resource that `cuDeviceGetDevResource` gives, once it was asked for.
    resource: Option<u64>,
    /// The same for the primary context.
    primary_resource: Option<u64>,
    /// The workqueue of all contexts that have none of their own, once it was asked for.
    workqueue: Option<u64>,
    /// The pool that `cuDeviceGetDefaultMemPool` gives, once it was needed.
    default_pool: Option<u64>,
    /// The pool that `cuDeviceSetMemPool` set, if it still lives.
    current_pool: Option<u64>,
}

/// A context as the entry points see it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Primary(usize),
    /// The green context's handle.
    Green(u64),
}

struct State {
    initialised: bool,
    /// The first fault that stays, which every later call answers.
    fault: Option<CUresult>,
    serial: u64,
    devices: Vec<Device>,
    greens: HashMap<u64, Green>,
    /// Contexts that are gone and the devices they were of: up to 13.0 at least, they can still be made
    /// current and still tell their device (measured on an H200, driver 580).
    dead_contexts: HashMap<u64, usize>,
    /// The id of the newest green context: they are numbered one by one (measured on an H200).
    green_ids: u64,
    streams: HashMap<u64, Stream>,
    /// Streams that went with their context: before 13.1 they cannot even be destroyed.
    lost_streams: HashSet<u64>,
    events: HashMap<u64, Event>,
    /// Events that went with the primary context.
    lost_events: HashSet<u64>,
    modules: HashMap<u64, Module>,
    functions: HashMap<u64, Function>,
    libraries: HashMap<u64, Library>,
    /// The kernels of libraries.
    kernels: HashMap<u64, LibraryKernel>,
    /// What was set of a function's attributes, by its handle or that of its kernel.
    function_attributes: HashMap<(u64, u32), i32>,
    graphs: HashMap<u64, Graph>,
    graph_execs: HashMap<u64, GraphExec>,
    /// Captures that have not ended, by their numbers.
    captures: HashMap<u64, Capture>,
    /// Kept as long as the driver, as the header says of descriptors; resources are values that the
    /// client copies, so there is no telling when the last copy is gone.
    descriptors: HashMap<u64, Descriptor>,
    resources: HashMap<u64, Arc<Resource>>,
    /// Objects that the client never destroyed and whose context took them along.
    abandoned: Vec<MadeAt>,
    timeline: Timeline,
}

impl Driver {
    pub(crate) fn new(profile: Profile) -> Self {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let count = profile.device_count as usize;
        let mut state = State {
            initialised: false,
            fault: None,
            serial: 0,
            devices: Vec::with_capacity(count),
            greens: HashMap::new(),
            dead_contexts: HashMap::new(),
            green_ids: 0,
            streams: HashMap::new(),
            lost_streams: HashSet::new(),
            events: HashMap::new(),
            lost_events: HashSet::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            libraries: HashMap::new(),
            kernels: HashMap::new(),
            function_attributes: HashMap::new(),
            graphs: HashMap::new(),
            graph_execs: HashMap::new(),
            captures: HashMap::new(),
            descriptors: HashMap::new(),
            resources: HashMap::new(),
            abandoned: Vec::new(),
            timeline: Timeline::new(
                count,
                profile.device.sm_count,
                SmLimits {
                    threads: profile.device.threads_per_sm(),
                    blocks: profile.device.blocks_per_sm(),
                    shared: profile.device.shared_per_sm(),
                },
            ),
        };
        for _ in 0..count {
            let primary = state.new_handle(number, Kind::Context);
            state.devices.push(Device {
                primary,
                retains: Vec::new(),
                active: false,
                was_active: false,
                resource: None,
                primary_resource: None,
                workqueue: None,
                default_pool: None,
                current_pool: None,
            });
        }
        Self {
            number,
            state: Mutex::new(state),
            memory: Mutex::new(Memory::new(vec![profile.device.memory_bytes; count])),
            kernels: RwLock::new(by_name(built_in())),
            costs: RwLock::new(by_name(built_in_costs())),
            injections: Injections::default(),
            lost: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            tracing: AtomicBool::new(false),
            trace: Mutex::new(None),
            profile,
        }
    }

    pub(crate) fn register_kernel(&self, name: &str, kernel: Kernel) {
        let replaced = self
            .kernels
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), kernel);
        // Dropped without the lock: the closure may own anything.
        drop(replaced);
    }

    pub(crate) fn register_cost(&self, name: &str, cost: Cost) {
        let replaced = self
            .costs
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), cost);
        drop(replaced);
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.lock().timeline.now())
    }

    pub(crate) fn advance(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.lock().timeline.spend(ns);
    }

    pub(crate) fn live_objects(&self) -> LiveObjects {
        let state = self.lock();
        let memory = self.memory();
        let mut objects = Vec::new();
        let mut add = |kind, made: &mut dyn Iterator<Item = MadeAt>| {
            objects.extend(made.map(|made_at| LiveObject { kind, made_at }));
        };
        // What was on a lost device is gone with it.
        let there = |device: usize| self.present(device).is_ok();
        let devices = state.devices.iter().enumerate();
        let retains = devices.filter(|(index, _)| there(*index));
        let retains = retains.flat_map(|(_, device)| &device.retains);
        add(live::RETAIN, &mut retains.copied());
        let greens = state.greens.values().filter(|g| there(g.device));
        add(live::GREEN, &mut greens.map(|green| green.made_at));
        let streams = state.streams.values().filter(|s| there(s.device));
        add(live::STREAM, &mut streams.map(|stream| stream.made_at));
        let events = state.events.values().filter(|e| there(e.device));
        add(live::EVENT, &mut events.map(|event| event.made_at));
        let modules = state.modules.values().filter(|m| there(m.device));
        let modules = modules.filter(|module| module.library.is_none());
        add(live::MODULE, &mut modules.map(|module| module.made_at));
        add(
            live::LIBRARY,
            &mut state.libraries.values().map(|library| library.made_at),
        );
        add(
            live::GRAPH,
            &mut state.graphs.values().map(|graph| graph.made_at),
        );
        add(
            live::GRAPH_EXEC,
            &mut state.graph_execs.values().map(|exec| exec.made_at),
        );
        add(live::ABANDONED, &mut state.abandoned.iter().copied());
        memory.each_live(&there, &mut |kind, made_at| {
            objects.push(LiveObject { kind, made_at });
        });
        LiveObjects::of(objects, memory.live_bytes(&there))
    }

    pub(crate) fn inject(&self, injection: Injection) {
        match injection.fill() {
            Some(fill) => self.memory().limit(fill),
            None => self.injections.add(injection),
        }
    }

    /// Takes back what [`inject`](Self::inject) did, but for devices that are lost.
    pub(crate) fn clear_injections(&self) {
        self.injections.clear();
        self.memory().limit(Fill::Percent(100));
    }

    pub(crate) fn start_trace(&self) {
        *self.trace.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        self.tracing.store(true, Ordering::Release);
    }

    pub(crate) fn take_trace(&self) -> Vec<MadeAt> {
        self.tracing.store(false, Ordering::Release);
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        trace.take().unwrap_or_default()
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// What every call begins with: it is counted, and what was injected for it happens.
    pub(crate) fn begin_call(&self, entry_point: &'static str) -> Answer {
        self.not_in_a_host_function()?;
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        MadeAt::enter(entry_point, call);
        if self.tracing.load(Ordering::Acquire)
            && let Some(trace) = &mut *self.trace.lock().unwrap_or_else(PoisonError::into_inner)
        {
            trace.push(MadeAt::now());
        }
        let Some(happening) = self.injections.at_call(entry_point) else {
            return Ok(());
        };
        for ordinal in happening.lost {
            let bit = 1_u32.checked_shl(ordinal).unwrap_or(0);
            self.lost.fetch_or(bit, Ordering::Relaxed);
        }
        if !happening.delay.is_zero() {
            // Without a lock: only this call is slow.
            std::thread::sleep(happening.delay);
            self.advance(happening.delay);
        }
        let Some(code) = happening.code else {
            return Ok(());
        };
        if code.is_sticky() {
            self.lock().fault.get_or_insert(code);
        }
        Err(code)
    }

    /// `DEVICE_UNAVAILABLE` for a device that has disappeared.
    fn present(&self, device: usize) -> Answer {
        match self.lost.load(Ordering::Relaxed) >> device & 1 {
            0 => Ok(()),
            _ => Err(CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE),
        }
    }

    /// Whether the driver speaks this CUDA version or a later one.
    fn speaks(&self, major: u16, minor: u8) -> bool {
        self.profile.cuda_version >= CudaVersion::new(major, minor)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What nearly every entry point does first: the driver must be initialised, and no fault stay.
    fn enter(&self) -> Result<MutexGuard<'_, State>, CUresult> {
        let state = self.enter_despite_fault()?;
        match state.fault {
            Some(fault) => Err(fault),
            None => Ok(state),
        }
    }

    /// [`enter`](Self::enter) for those that answer after a fault as before it: whatever asks for devices
    /// and resources, makes contexts current, or holds and ends them (measured on an H200, driver 580, for
    /// `cuDeviceGetCount`, `cuDeviceGetDevResource`, `cuCtxGetCurrent`, `cuCtxSetCurrent`,
    /// `cuGreenCtxDestroy` and the primary context's retain and release; the others are like these).
    fn enter_despite_fault(&self) -> Result<MutexGuard<'_, State>, CUresult> {
        let state = self.lock();
        if state.initialised {
            Ok(state)
        } else {
            Err(CUresult::CUDA_ERROR_NOT_INITIALIZED)
        }
    }

    /// [`enter`](Self::enter) for those that need nothing of the state.
    fn ready(&self) -> Answer {
        self.enter().map(drop)
    }

    /// [`enter_despite_fault`](Self::enter_despite_fault) for those that need nothing of the state.
    fn ready_despite_fault(&self) -> Answer {
        self.enter_despite_fault().map(drop)
    }

    /// The index of a device handle, which is its ordinal.
    fn device(&self, device: i32) -> Result<usize, CUresult> {
        let index = usize::try_from(device)
            .ok()
            .filter(|index| *index < self.profile.device_count as usize)
            .ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)?;
        self.present(index)?;
        Ok(index)
    }

    /// The top of the calling thread's stack as it is, living or not; 0 where there is none.
    fn current_handle(&self) -> u64 {
        STACKS.with_borrow(|stacks| {
            stacks
                .get(&self.number)
                .and_then(|stack| stack.last())
                .copied()
                .unwrap_or(0)
        })
    }

    /// Works on the calling thread's stack of contexts.
    fn with_stack<T>(&self, work: impl FnOnce(&mut Vec<u64>) -> T) -> T {
        STACKS.with_borrow_mut(|stacks| {
            let stack = stacks.entry(self.number).or_default();
            let answer = work(stack);
            if stack.is_empty() {
                stacks.remove(&self.number);
            }
            answer
        })
    }

    /// The calling thread's current context, which must be alive.
    fn current(&self, state: &State) -> Result<Context, CUresult> {
        self.context(state, self.current_handle())
    }

    /// What a context handle stands for. A green context's own handle becomes one once
    /// `cuCtxFromGreenCtx` was asked for it, which gives the same handle (measured on an H200, driver 580).
    fn context(&self, state: &State, handle: u64) -> Result<Context, CUresult> {
        if let Some(index) = state.devices.iter().position(|d| d.primary == handle) {
            self.present(index)?;
            if state.primary_is_active(index) {
                return Ok(Context::Primary(index));
            }
            if state.devices[index].was_active {
                return Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
            }
        } else if state
            .greens
            .get(&handle)
            .is_some_and(|green| green.is_context)
        {
            self.green(state, handle)?;
            return Ok(Context::Green(handle));
        } else if state.dead_contexts.contains_key(&handle) {
            return Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        }
        Err(CUresult::CUDA_ERROR_INVALID_CONTEXT)
    }

    /// The device of a context that lives or lived.
    fn device_of_handle(&self, state: &State, handle: u64) -> Result<usize, CUresult> {
        let device = match self.context(state, handle) {
            Ok(context) => state.device_of(context),
            Err(code) => state
                .dead_contexts
                .get(&handle)
                .copied()
                .or_else(|| {
                    let known = |d: &Device| d.primary == handle && d.was_active;
                    state.devices.iter().position(known)
                })
                .ok_or(code),
        }?;
        self.present(device)?;
        Ok(device)
    }

    /// A green context by its own handle.
    fn green<'s>(&self, state: &'s State, handle: u64) -> Result<&'s Green, CUresult> {
        match state.greens.get(&handle) {
            Some(green) => self.present(green.device).map(|()| green),
            None if self.was_mine(state, handle, Kind::Green) => {
                Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED)
            }
            None => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
        }
    }

    /// Whether this driver gave the handle out, some time or other.
    fn was_mine(&self, state: &State, handle: u64, kind: Kind) -> bool {
        handle >> 40 == self.number
            && (handle >> 3) & 0x1f == kind as u64
            && (handle >> 8) & 0xffff_ffff < state.serial
    }
}

impl State {
    /// A new handle; kinds do not share numbers, and no number comes twice.
    fn new_handle(&mut self, driver: u64, kind: Kind) -> u64 {
        let serial = self.serial;
        self.serial += 1;
        (driver << 40) | ((serial & 0xffff_ffff) << 8) | ((kind as u64) << 3)
    }

    fn primary_is_active(&self, device: usize) -> bool {
        self.devices[device].active
    }

    /// Whether a green context holds a device's primary context.
    fn is_held(&self, device: usize) -> bool {
        self.greens.values().any(|green| green.device == device)
    }

    fn device_of(&self, context: Context) -> Result<usize, CUresult> {
        match context {
            Context::Primary(device) => Ok(device),
            Context::Green(handle) => self
                .greens
                .get(&handle)
                .map(|green| green.device)
                .ok_or(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED),
        }
    }

    /// The number by which virtual time knows a context.
    fn context_key(&self, context: Context) -> u64 {
        match context {
            Context::Primary(device) => self.devices[device].primary,
            Context::Green(handle) => handle,
        }
    }

    /// Streams go with their context, without having been destroyed.
    fn lose_streams(&mut self, lost: impl Fn(&Stream) -> bool) {
        for (handle, stream) in self.streams.extract_if(|_, stream| lost(stream)) {
            self.lost_streams.insert(handle);
            self.abandoned.push(stream.made_at);
        }
    }

    /// When the last hold on a primary context is gone, everything in it goes with it.
    fn sweep_if_unused(&mut self, driver: &Driver, device: usize) {
        if !self.devices[device].retains.is_empty() || self.is_held(device) {
            return;
        }
        self.devices[device].active = false;
        self.lose_streams(|stream| stream.device == device);
        // Assumed: nobody can end them any more.
        self.captures.retain(|_, capture| !capture.is_of(device));
        let lost = self
            .events
            .iter()
            .filter(|(_, event)| event.device == device);
        self.lost_events.extend(lost.map(|(handle, _)| *handle));
        let events = self.events.extract_if(|_, event| event.device == device);
        self.abandoned
            .extend(events.map(|(_, event)| event.made_at));
        let modules = self.modules.extract_if(|_, module| module.device == device);
        self.abandoned.extend(
            modules
                .filter(|(_, module)| module.library.is_none())
                .map(|(_, module)| module.made_at),
        );
        let live = &self.modules;
        self.functions
            .retain(|_, function| live.contains_key(&function.module));
        let mut memory = driver.memory();
        self.abandoned.extend(memory.sweep(device));
        self.abandoned.extend(memory.abandon_host(device));
        drop(memory);
        self.devices[device].primary_resource = None;
        self.timeline.forget_context(self.devices[device].primary);
    }
}

fn by_name<T>(list: Vec<(&'static str, T)>) -> HashMap<String, T> {
    list.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A handle as the C type that it has outside.
fn as_pointer<T>(handle: u64) -> *mut T {
    std::ptr::without_provenance_mut(handle as usize)
}

/// `INVALID_VALUE` unless the condition holds.
fn require(condition: bool) -> Answer {
    if condition {
        Ok(())
    } else {
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}
