//! The state of a driver: its devices, and every live object.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use cuda_green_sys::CUresult;

use super::{
    Driver, Kind,
    capture::Capture,
    descriptors::Descriptor,
    events::Event,
    graphs::{Graph, GraphExec},
    green_contexts::Green,
    held::HeldAction,
    late_copies::LateCopy,
    libraries::{Library, LibraryKernel},
    links::Link,
    modules::{Function, Module},
    sm_resource::Resource,
    streams::Stream,
};
use crate::{
    leaks::MadeAt,
    profile::Profile,
    timeline::{SmLimits, Timeline},
};

/// Parts of splits that are kept. A client copies resources at will, so it is unknown which it still has. Beyond this
/// number the oldest are forgotten, and a client that presents one of them is refused.
pub(super) const MOST_PARTS: usize = 1 << 16;

/// One device's part of the state.
pub(super) struct Device {
    /// The handle of the primary context, the same for the whole process.
    pub(super) primary: u64,
    /// Retains by the client. Green contexts hold the primary context too.
    pub(super) retains: Vec<MadeAt>,
    /// Whether the primary context exists. The end of the last green context does not end it, only a release does
    /// (measured on an H200, driver 580).
    pub(super) active: bool,
    /// Whether the primary context ever existed, so that a stale handle is told from a wrong one.
    pub(super) was_active: bool,
    /// The resource that `cuDeviceGetDevResource` returns, once it was requested.
    pub(super) resource: Option<u64>,
    /// The same for the primary context.
    pub(super) primary_resource: Option<u64>,
    /// The workqueue shared by all contexts without their own, once it was requested.
    pub(super) workqueue: Option<u64>,
    /// The pool that `cuDeviceGetDefaultMemPool` returns, once it was needed.
    pub(super) default_pool: Option<u64>,
    /// The pool that `cuDeviceSetMemPool` set, if it is alive.
    pub(super) current_pool: Option<u64>,
}

/// A context as the entry points see it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    Primary(usize),
    /// The green context's handle.
    Green(u64),
}

pub(super) struct State {
    pub(super) initialised: bool,
    /// The first persistent fault, which every later call returns.
    pub(super) fault: Option<CUresult>,
    pub(super) serial: u64,
    pub(super) devices: Vec<Device>,
    pub(super) greens: HashMap<u64, Green>,
    /// Destroyed contexts and their devices: up to 13.0 at least, they can still be made current and queried for
    /// their device (measured on an H200, driver 580).
    pub(super) dead_contexts: HashMap<u64, usize>,
    /// The id of the newest green context: they are numbered one by one (measured on an H200).
    pub(super) green_ids: u64,
    pub(super) streams: HashMap<u64, Stream>,
    /// Streams that ended with their context: before 13.1 they cannot even be destroyed.
    pub(super) lost_streams: HashSet<u64>,
    pub(super) events: HashMap<u64, Event>,
    /// Events that ended with the primary context.
    pub(super) lost_events: HashSet<u64>,
    pub(super) modules: HashMap<u64, Module>,
    pub(super) functions: HashMap<u64, Function>,
    pub(super) libraries: HashMap<u64, Library>,
    /// The kernels of libraries.
    pub(super) kernels: HashMap<u64, LibraryKernel>,
    pub(super) links: HashMap<u64, Link>,
    /// The attributes set on a function, by its handle or that of its kernel.
    pub(super) function_attributes: HashMap<(u64, u32), i32>,
    pub(super) graphs: HashMap<u64, Graph>,
    pub(super) graph_execs: HashMap<u64, GraphExec>,
    /// Captures that have not ended, by their numbers.
    pub(super) captures: HashMap<u64, Capture>,
    /// Kept as long as the driver, as the header says of descriptors. Resources are values that the client copies, so
    /// it is unknown when the last copy is gone.
    pub(super) descriptors: HashMap<u64, Descriptor>,
    pub(super) resources: HashMap<u64, Arc<Resource>>,
    /// The parts of splits, the oldest first: see [`MOST_PARTS`].
    pub(super) parts: VecDeque<u64>,
    /// Objects that the client never destroyed and that ended with their context.
    pub(super) abandoned: Vec<MadeAt>,
    pub(super) timeline: Timeline,
    /// Copies that are staged and not done.
    pub(super) late_copies: Vec<LateCopy>,
    /// Actions that are not over, by their work in `timeline`.
    pub(super) held: HashMap<u64, HeldAction>,
    /// Whether the last handle of the driver was dropped.
    pub(super) ended: bool,
}

impl State {
    /// Makes a state with only devices, whose primary contexts were never used.
    pub(super) fn new(number: u64, profile: &Profile) -> Self {
        let count = profile.device_count as usize;
        let mut state = Self {
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
            links: HashMap::new(),
            function_attributes: HashMap::new(),
            graphs: HashMap::new(),
            graph_execs: HashMap::new(),
            captures: HashMap::new(),
            descriptors: HashMap::new(),
            resources: HashMap::new(),
            parts: VecDeque::new(),
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
            late_copies: Vec::new(),
            held: HashMap::new(),
            ended: false,
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
        state
    }

    pub(super) fn primary_is_active(&self, device: usize) -> bool {
        self.devices[device].active
    }

    /// Returns whether a green context holds a device's primary context.
    pub(super) fn is_held(&self, device: usize) -> bool {
        self.greens.values().any(|green| green.device == device)
    }

    pub(super) fn device_of(&self, context: Context) -> Result<usize, CUresult> {
        match context {
            Context::Primary(device) => Ok(device),
            Context::Green(handle) => self
                .greens
                .get(&handle)
                .map(|green| green.device)
                .ok_or(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED),
        }
    }

    /// Returns the number by which virtual time knows a context.
    pub(super) fn context_key(&self, context: Context) -> u64 {
        match context {
            Context::Primary(device) => self.devices[device].primary,
            Context::Green(handle) => handle,
        }
    }

    /// Ends a context's streams, which were not destroyed.
    pub(super) fn lose_streams(&mut self, lost: impl Fn(&Stream) -> bool) {
        for (handle, stream) in self.streams.extract_if(|_, stream| lost(stream)) {
            self.lost_streams.insert(handle);
            self.abandoned.push(stream.made_at);
        }
    }

    /// Ends everything in a primary context when the last hold on it is gone.
    pub(super) fn sweep_if_unused(&mut self, driver: &Driver, device: usize) {
        if !self.devices[device].retains.is_empty() || self.is_held(device) {
            return;
        }
        self.devices[device].active = false;
        // It is not measured what becomes of kernels that still run. They end here, so that no test hangs.
        self.stop(|of| of == device);
        self.lose_streams(|stream| stream.device == device);
        // Assumed: nothing can end them any more.
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
        self.timeline.end_context(self.devices[device].primary);
    }
}
