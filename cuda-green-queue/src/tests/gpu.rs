//! The device side in Rust, for kernels of the simulator, and a simulated device with such kernels.

use std::sync::Arc;

use cuda_green::{
    CudaDevice, Driver, Kernel, LaunchConfig, Module, SmPartitionManager, Stream,
    sim::{Launch, Sim},
};

use crate::{
    DeviceQueue, Task, TaskQueue,
    layout::NO_FUTURE,
    protocol::{Call, Reservation, TaskHeader, sim::SimMemory},
};

/// A warp of a kernel that uses a queue.
pub(super) struct Warp<'a> {
    pub(super) launch: &'a Launch<'a>,
    pub(super) queue: DeviceQueue,
    pub(super) number: u32,
}

/// Why a submission was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
    NoFuture,
    Stopped,
}

impl<'a> Warp<'a> {
    /// The first argument is the queue.
    pub(super) fn new(launch: &'a Launch<'a>, number: u32) -> Self {
        Self {
            launch,
            queue: bytemuck::pod_read_unaligned(launch.arg(0).unwrap()),
            number,
        }
    }

    fn lane(&self) -> u32 {
        self.number % u32::from(self.queue.lanes)
    }

    /// Submits bytes as a task, whatever they are.
    pub(super) fn submit_bytes(
        &self,
        priority: u32,
        method: u16,
        payload: &[u8],
        call: Option<Call>,
    ) -> Result<(), Refused> {
        let memory = &SimMemory::new(self.launch);
        let ring = self.queue.ring(self.lane(), priority).unwrap();
        let mut reservation = ring.reserve(memory, memory, 1);
        loop {
            if self.launch.is_stopped() {
                return Err(Refused::Stopped);
            }
            match reservation {
                Reservation::Tickets(ticket) => {
                    let header = TaskHeader {
                        method,
                        length: payload.len() as u16,
                        future: call.map_or(NO_FUTURE, |call| call.future),
                        generation: call.map_or(0, |call| call.generation),
                    };
                    ring.commit(memory, ticket, &header, payload);
                    ring.replenish(memory, memory, ticket, 1);
                    return Ok(());
                }
                Reservation::Full => {
                    ring.count_refused(memory, 1);
                    return Err(Refused::Full);
                }
                Reservation::Closed => return Err(Refused::Closed),
                Reservation::Refilling => std::thread::yield_now(),
            }
            reservation = ring.reserve_again(memory, memory, 1);
        }
    }

    /// Submits a task without an answer, and waits while the ring is full.
    pub(super) fn submit<T: Task>(&self, priority: u32, task: T) -> Result<(), Refused> {
        self.submit_raw(priority, T::METHOD, bytemuck::bytes_of(&task), None)
    }

    pub(super) fn submit_raw(
        &self,
        priority: u32,
        method: u16,
        payload: &[u8],
        call: Option<Call>,
    ) -> Result<(), Refused> {
        loop {
            match self.submit_bytes(priority, method, payload, call) {
                Err(Refused::Full) => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    /// Submits bytes as a task, and returns the answer's status and output.
    pub(super) fn call_raw(
        &self,
        priority: u32,
        method: u16,
        payload: &[u8],
    ) -> Result<(u8, Vec<u8>), Refused> {
        let memory = &SimMemory::new(self.launch);
        let table = self.queue.future_table();
        let call = table
            .take(memory, memory, self.number * 7)
            .ok_or(Refused::NoFuture)?;
        if let Err(refused) = self.submit_raw(priority, method, payload, Some(call)) {
            table.give_back(memory, call);
            return Err(refused);
        }
        let mut output = vec![0; table.output_bytes()];
        loop {
            if let Some(answer) = table.poll(memory, call, &mut output) {
                table.give_back(memory, call);
                output.truncate(answer.length as usize);
                return Ok((answer.status, output));
            }
            if self.launch.is_stopped() {
                return Err(Refused::Stopped);
            }
            std::thread::yield_now();
        }
    }

    /// Submits a task, and returns the answer's status and output.
    pub(super) fn call<T: Task>(&self, priority: u32, task: T) -> Result<(u8, Vec<u8>), Refused> {
        self.call_raw(priority, T::METHOD, bytemuck::bytes_of(&task))
    }

    /// Adds to a number in device memory.
    pub(super) fn add(&self, address: u64, value: u64) {
        let _ = self.launch.atomic_add_u64(address, value);
    }
}

const PTX: &str = ".version 6.0\n.target sm_70\n.address_size 64\n\
    .visible .entry user(.param .align 8 .b8 queue[64], .param .u64 out, .param .u64 n) { ret; }";

/// A simulated device, whose kernel `user(queue, out, n)` is a Rust function that may wait for the CPU.
pub(crate) struct Gpu {
    _sim: Sim,
    pub(crate) device: CudaDevice,
    pub(super) stream: Stream,
    pub(super) kernel: Kernel,
    _manager: Arc<SmPartitionManager>,
}

impl Gpu {
    pub(crate) fn new(profile: &str, kernel: impl Fn(&Launch<'_>) + Send + Sync + 'static) -> Self {
        let sim = Sim::new(profile).unwrap();
        sim.register_concurrent_kernel("user", kernel);
        let driver = Driver::simulated(&sim).unwrap();
        Self::on(sim, &driver, 0)
    }

    pub(super) fn on(sim: Sim, driver: &Driver, ordinal: u32) -> Self {
        let device = driver.device(ordinal).unwrap();
        let manager = Arc::new(SmPartitionManager::on(&device).unwrap());
        manager.init_quad_partition().unwrap();
        let context = manager.get_context(cuda_green::ContextId::Dream).unwrap();
        let stream = context.create_stream().unwrap();
        let module = Module::load_ptx(&device, PTX).unwrap();
        Self {
            _sim: sim,
            stream,
            kernel: module.kernel("user").unwrap(),
            device,
            _manager: manager,
        }
    }

    /// Launches the kernel.
    pub(super) fn launch(&self, queue: &TaskQueue, out: u64, n: u64) {
        let config = LaunchConfig::linear(1, 32);
        // SAFETY: the kernel takes a queue, an address and a number; what it does with them is defined, as it runs on
        // the simulator.
        unsafe {
            queue
                .launch(
                    &self.stream,
                    &self.kernel,
                    &config,
                    &[&queue.device_queue(), &out, &n],
                )
                .unwrap();
        }
    }
}

/// Runs a function for each warp, on a thread of its own.
pub(super) fn warps(launch: &Launch<'_>, count: u32, run: impl Fn(&Warp<'_>) + Sync) {
    std::thread::scope(|scope| {
        for number in 0..count {
            let run = &run;
            scope.spawn(move || run(&Warp::new(launch, number)));
        }
    });
}
