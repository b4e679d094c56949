//! Kernels of the simulator that submit.

use std::{fmt, marker::PhantomData, thread};

use cuda_green::sim::Launch;

use super::Status;
use crate::{
    layout::{DeviceQueue, MAGIC, NO_FUTURE, VERSION, status},
    protocol::{Call, FutureTable, Reservation, Ring, TaskHeader, sim::SimMemory},
    task::Task,
};

/// The ring that a kernel submits to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The lane, from 0.
    pub lane: u32,
    /// The priority; 0 is the most urgent.
    pub priority: u32,
}

/// A queue, as a kernel of the simulator submits to it. Threads that stand for warps may share it.
pub struct DeviceSide<'a> {
    memory: SimMemory<'a>,
    queue: DeviceQueue,
    table: FutureTable,
}

impl<'a> DeviceSide<'a> {
    /// Accesses a queue; `None` if it is none of this version.
    pub fn of(launch: &'a Launch<'a>, queue: &DeviceQueue) -> Option<Self> {
        (queue.magic == MAGIC && queue.version == VERSION).then(|| Self {
            memory: SimMemory::new(launch),
            queue: *queue,
            table: queue.future_table(),
        })
    }

    /// Accesses the queue that a parameter of the kernel is.
    pub fn argument(launch: &'a Launch<'a>, index: usize) -> Option<Self> {
        let queue = bytemuck::try_pod_read_unaligned(launch.arg(index)?).ok()?;
        Self::of(launch, &queue)
    }

    /// Submits a task whose answer is not wanted.
    ///
    /// # Errors
    /// [`Status::Full`], [`Status::Closed`], [`Status::Invalid`].
    pub fn try_submit<T: Task>(&self, place: Place, task: &T) -> Result<(), Status> {
        self.try_submit_warp(place, std::slice::from_ref(task))
    }

    /// Submits tasks whose answers are not wanted, by one reservation: all of them or none, as a warp does.
    ///
    /// # Errors
    /// As [`try_submit`](Self::try_submit).
    pub fn try_submit_warp<T: Task>(&self, place: Place, tasks: &[T]) -> Result<(), Status> {
        let ring = self.ring::<T>(place)?;
        let count = u32::try_from(tasks.len()).map_err(|_| Status::Invalid)?;
        if u64::from(count) > ring.depth() {
            return Err(Status::Invalid);
        }
        let first = self.reserve(&ring, count)?;
        for (ticket, task) in (first..).zip(tasks) {
            self.commit(&ring, ticket, task, None);
        }
        ring.replenish(&self.memory, &self.memory, first, count);
        Ok(())
    }

    /// Submits a task whose answer is not wanted, and waits while the ring is full.
    ///
    /// # Errors
    /// [`Status::Closed`], [`Status::Invalid`], [`Status::Stopped`].
    pub fn submit<T: Task>(&self, place: Place, task: &T) -> Result<(), Status> {
        self.until_there_is_room(|| self.try_submit(place, task))
    }

    /// Submits a task and returns the future of its answer.
    ///
    /// # Errors
    /// As [`try_submit`](Self::try_submit); [`Status::Full`] too if all entries for answers are taken.
    pub fn try_call<T: Task>(
        &self,
        place: Place,
        task: &T,
    ) -> Result<DeviceFuture<'_, 'a, T::Output>, Status> {
        let ring = self.ring::<T>(place)?;
        if size_of::<T::Output>() > self.table.output_bytes() {
            return Err(Status::Invalid);
        }
        let near = thread_number();
        let call = self.table.take(&self.memory, &self.memory, near);
        let call = call.ok_or_else(|| match ring.is_closed(&self.memory) {
            true => Status::Closed,
            false => Status::Full,
        })?;
        let ticket = self.reserve(&ring, 1).inspect_err(|_| {
            self.table.give_back(&self.memory, call);
        })?;
        self.commit(&ring, ticket, task, Some(call));
        ring.replenish(&self.memory, &self.memory, ticket, 1);
        Ok(DeviceFuture {
            side: self,
            call,
            answered: false,
            output: PhantomData,
        })
    }

    /// Submits a task, waiting while there is no room, and returns the future of its answer.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn call<T: Task>(
        &self,
        place: Place,
        task: &T,
    ) -> Result<DeviceFuture<'_, 'a, T::Output>, Status> {
        self.until_there_is_room(|| self.try_call(place, task))
    }

    fn until_there_is_room<R>(
        &self,
        mut attempt: impl FnMut() -> Result<R, Status>,
    ) -> Result<R, Status> {
        loop {
            match attempt() {
                Err(Status::Full) => thread::yield_now(),
                end => return end,
            }
        }
    }

    fn ring<T: Task>(&self, place: Place) -> Result<Ring, Status> {
        let ring = self.queue.ring(place.lane, place.priority);
        ring.filter(|ring| size_of::<T>() <= ring.payload_bytes())
            .ok_or(Status::Invalid)
    }

    fn reserve(&self, ring: &Ring, count: u32) -> Result<u64, Status> {
        let memory = &self.memory;
        let mut got = ring.reserve(memory, memory, count);
        loop {
            if memory.has_failed() {
                return Err(Status::Stopped);
            }
            match got {
                Reservation::Tickets(first) => return Ok(first),
                Reservation::Closed => return Err(Status::Closed),
                Reservation::Full => {
                    ring.count_refused(memory, count);
                    return Err(Status::Full);
                }
                // Whoever refills is a thread that runs.
                Reservation::Refilling => thread::yield_now(),
            }
            got = ring.reserve_again(memory, memory, count);
        }
    }

    fn commit<T: Task>(&self, ring: &Ring, ticket: u64, task: &T, call: Option<Call>) {
        let header = TaskHeader {
            method: T::METHOD,
            length: size_of::<T>() as u16,
            future: call.map_or(NO_FUTURE, |call| call.future),
            generation: call.map_or(0, |call| call.generation),
        };
        ring.commit(&self.memory, ticket, &header, bytemuck::bytes_of(task));
    }
}

impl fmt::Debug for DeviceSide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceSide")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

/// Returns a number that differs between threads.
fn thread_number() -> u32 {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    hasher.hash_one(thread::current().id()) as u32
}

/// The answer to come of a task that a kernel submitted. Dropped before it has come, it is abandoned: the task is run
/// all the same.
#[must_use = "drop it on purpose if the answer is not needed"]
pub struct DeviceFuture<'q, 'a, O> {
    side: &'q DeviceSide<'a>,
    call: Call,
    answered: bool,
    output: PhantomData<O>,
}

impl<O: bytemuck::Pod> DeviceFuture<'_, '_, O> {
    /// Returns the output if the answer has arrived.
    ///
    /// # Errors
    /// [`Status::Pending`] before that; another [`Status`] if the task failed.
    pub fn poll(&mut self) -> Result<O, Status> {
        let memory = &self.side.memory;
        let mut output = O::zeroed();
        let bytes = bytemuck::bytes_of_mut(&mut output);
        let answer = self.side.table.poll(memory, self.call, bytes);
        if memory.has_failed() {
            return Err(Status::Stopped);
        }
        let answer = answer.ok_or(Status::Pending)?;
        self.answered = true;
        match answer.status {
            status::DONE if answer.length as usize == size_of::<O>() => Ok(output),
            status::FAILED => {
                let mut code = [0; 4];
                let _ = self.side.table.poll(memory, self.call, &mut code);
                Err(Status::Failed(u32::from_le_bytes(code)))
            }
            status::PANICKED => Err(Status::Panicked),
            status::UNKNOWN_METHOD => Err(Status::UnknownMethod),
            status::BAD_PAYLOAD => Err(Status::BadPayload),
            status::CLOSED => Err(Status::Closed),
            _ => Err(Status::Invalid),
        }
    }

    /// Waits for the output.
    ///
    /// # Errors
    /// As [`poll`](Self::poll), but never [`Status::Pending`].
    pub fn wait(&mut self) -> Result<O, Status> {
        loop {
            match self.poll() {
                Err(Status::Pending) => thread::yield_now(),
                end => return end,
            }
        }
    }
}

impl<O> Drop for DeviceFuture<'_, '_, O> {
    fn drop(&mut self) {
        let (table, memory) = (&self.side.table, &self.side.memory);
        if self.answered {
            table.give_back(memory, self.call);
        } else {
            table.abandon(memory, self.call);
        }
    }
}

impl<O> fmt::Debug for DeviceFuture<'_, '_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceFuture")
            .field("call", &self.call)
            .field("answered", &self.answered)
            .finish_non_exhaustive()
    }
}
