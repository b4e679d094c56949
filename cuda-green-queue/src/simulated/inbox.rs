//! Resident kernels of the simulator.

use std::{fmt, thread};

use cuda_green::sim::Launch;

use super::Status;
use crate::{
    layout::{
        CLOSE, CLOSED, CONTROL_RUNS, DeviceInbox, FINISH, INBOX_MAGIC, KERNEL_TO_KERNEL, LEAVE,
        NO_FUTURE, RUNNING, VERSION, status,
    },
    protocol::{Call, FutureTable, Ring, Shared, TaskHeader, answer, sim::SimMemory},
    task::{Task, TaskFailure},
};

/// The next step of a block of a resident kernel.
#[derive(Debug)]
pub enum Next {
    /// A task to do and to answer.
    Task(InboxTask),
    /// Nothing to do now.
    Empty,
    /// The kernel is to return. The next launch goes on where this one stops.
    Leave,
}

/// A task that a resident kernel took.
#[derive(Debug)]
pub struct InboxTask {
    header: TaskHeader,
    payload: Vec<u8>,
}

impl InboxTask {
    /// Returns the number of the method.
    pub fn method(&self) -> u16 {
        self.header.method
    }

    /// Returns the bytes of the payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Returns the task if it is of this type.
    pub fn task<T: Task>(&self) -> Option<T> {
        (self.header.method == T::METHOD)
            .then(|| bytemuck::try_pod_read_unaligned(&self.payload).ok())
            .flatten()
    }
}

/// One block of a resident kernel of the simulator, and the rings of its lane.
///
/// Dropped, it leaves the tasks that it has not taken to the next launch, as it does when it is told to leave.
pub struct InboxSide<'a> {
    memory: SimMemory<'a>,
    inbox: DeviceInbox,
    table: FutureTable,
    control: u64,
    rings: Vec<BlockRing>,
    /// The number of tasks that were taken.
    taken: usize,
}

struct BlockRing {
    ring: Ring,
    /// The address where the position is kept between launches.
    kept: u64,
    position: u64,
    told: u64,
    closed: bool,
}

impl<'a> InboxSide<'a> {
    /// Takes the tasks of a block; `None` if the inbox is none of this version or has no such lane.
    pub fn of(launch: &'a Launch<'a>, inbox: &DeviceInbox, block: u32) -> Option<Self> {
        if inbox.magic != INBOX_MAGIC || inbox.version != VERSION {
            return None;
        }
        let memory = SimMemory::new(launch);
        let rings = (0..u32::from(inbox.priorities)).map(|priority| {
            let ring = inbox.ring(block, priority)?;
            let kept = inbox.position(block, priority);
            let position = memory.load(kept);
            Some(BlockRing {
                ring,
                kept,
                position,
                told: position,
                closed: false,
            })
        });
        let rings = rings.collect::<Option<_>>()?;
        let control = inbox.control(block);
        memory.store(control + CONTROL_RUNS, RUNNING);
        Some(Self {
            inbox: *inbox,
            table: inbox.future_table(),
            control,
            rings,
            taken: 0,
            memory,
        })
    }

    /// Takes the tasks of a block of the inbox that a parameter of the kernel is.
    pub fn argument(launch: &'a Launch<'a>, index: usize, block: u32) -> Option<Self> {
        let inbox = bytemuck::try_pod_read_unaligned(launch.arg(index)?).ok()?;
        Self::of(launch, &inbox, block)
    }

    /// Takes the next task, the most urgent first. Every eighth turn is that of a less urgent one, of each priority in
    /// turn, so that none is starved.
    pub fn take_next(&mut self) -> Next {
        let control = self.memory.load_acquire(self.control);
        if self.memory.has_failed() {
            return Next::Leave;
        }
        if control == LEAVE {
            return self.leave();
        }
        if control == CLOSE {
            for ring in &mut self.rings {
                ring.close(&self.memory);
            }
        }
        let words = self.inbox.flags & KERNEL_TO_KERNEL == 0;
        let first = match self.taken % 8 {
            7 => self.taken / 8 % self.rings.len(),
            _ => 0,
        };
        let (urgent, others) = self.rings.split_at_mut(first);
        for ring in others.iter_mut().chain(urgent) {
            if let Some(task) = ring.take(&self.memory, words) {
                self.taken += 1;
                if ring.has_much_to_tell() {
                    // All rings: another one may have fewer to give back, and be empty from now on.
                    self.tell();
                }
                return Next::Task(task);
            }
        }
        self.tell();
        if matches!(control, FINISH | CLOSE) {
            return self.leave();
        }
        Next::Empty
    }

    /// Waits for the next task; `None` if the kernel is to return.
    pub fn wait_next(&mut self) -> Option<InboxTask> {
        loop {
            match self.take_next() {
                Next::Task(task) => return Some(task),
                Next::Empty => thread::yield_now(),
                Next::Leave => return None,
            }
        }
    }

    /// Answers a task with an output of its type, or with the code of a failure.
    ///
    /// # Errors
    /// [`Status::Invalid`] if the queue has no room for such an output.
    pub fn answer<T: Task>(
        &self,
        task: InboxTask,
        result: Result<T::Output, TaskFailure>,
    ) -> Result<(), Status> {
        match result {
            Ok(output) => self.write_answer(&task, status::DONE, bytemuck::bytes_of(&output)),
            Err(TaskFailure(code)) => self.write_answer(&task, status::FAILED, &code.to_le_bytes()),
        }
    }

    /// Answers a task that the kernel does not know.
    pub fn refuse(&self, task: InboxTask) {
        // An answer without output always fits.
        let _ = self.write_answer(&task, status::UNKNOWN_METHOD, &[]);
    }

    /// Runs a kernel that answers all tasks of a type until it is to return.
    pub fn serve<T: Task>(mut self, mut handler: impl FnMut(T) -> Result<T::Output, TaskFailure>) {
        while let Some(taken) = self.wait_next() {
            match taken.task::<T>() {
                Some(task) => {
                    let _ = self.answer::<T>(taken, handler(task));
                }
                None => self.refuse(taken),
            }
        }
    }

    fn write_answer(&self, task: &InboxTask, status: u8, output: &[u8]) -> Result<(), Status> {
        let call = Call {
            future: task.header.future,
            generation: task.header.generation,
        };
        let wanted = call.future != NO_FUTURE;
        if !wanted || answer(&self.memory, &self.table, call, status, output) {
            return Ok(());
        }
        // Whoever waits learns that there is no output.
        answer(&self.memory, &self.table, call, status::BAD_PAYLOAD, &[]);
        Err(Status::Invalid)
    }

    fn tell(&mut self) {
        for ring in &mut self.rings {
            ring.tell(&self.memory);
        }
    }

    fn leave(&mut self) -> Next {
        self.tell();
        self.memory.store_release(self.control + CONTROL_RUNS, 0);
        Next::Leave
    }
}

impl Drop for InboxSide<'_> {
    fn drop(&mut self) {
        if !self.memory.has_failed() {
            self.leave();
        }
    }
}

impl BlockRing {
    fn take(&mut self, memory: &SimMemory<'_>, words: bool) -> Option<InboxTask> {
        let (header, payload) = if words {
            let mut payload = vec![0; self.ring.inbox_payload_bytes()];
            let header = self.ring.read_words(memory, self.position, &mut payload)?;
            (header, payload)
        } else {
            let header = TaskHeader::read(memory, &self.ring, self.position)?;
            let mut payload = vec![0; self.ring.payload_bytes()];
            self.ring.read_payload(memory, self.position, &mut payload);
            (header, payload)
        };
        self.position += 1;
        let mut task = InboxTask { header, payload };
        task.payload.truncate(header.length.into());
        Some(task)
    }

    fn has_much_to_tell(&self) -> bool {
        self.position - self.told >= self.ring.depth() / 8
    }

    fn tell(&mut self, memory: &SimMemory<'_>) {
        if self.told != self.position {
            if !self.closed {
                memory.store_release(self.ring.tail, self.position);
            }
            memory.store(self.kept, self.position);
            self.told = self.position;
        }
    }

    /// Gives no more slots back.
    fn close(&mut self, memory: &SimMemory<'_>) {
        if !self.closed {
            self.closed = true;
            memory.store_release(self.ring.tail, self.told | CLOSED);
        }
    }
}

impl fmt::Debug for InboxSide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxSide")
            .field("inbox", &self.inbox)
            .finish_non_exhaustive()
    }
}
