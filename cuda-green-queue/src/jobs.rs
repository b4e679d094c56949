//! Jobs: tasks on their way to a worker, either the task itself or a copy of its bytes.

use std::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    completion::Completion,
    contain::contain,
    counters::{MethodCounters, Times},
    future::Place,
    layout::{NO_FUTURE, status},
    protocol::Call,
    registry::{Method, Outcome},
    segment::Segment,
    task::{HostTask, Task, TaskError, TaskFailure},
};

/// A task of CPU code, in one allocation with the place of its output. Whoever claims the task runs or cancels it: the
/// worker that finds it in a queue, the one that finds its copy in a ring, or a handler that waits for it.
pub(crate) struct CpuTask<T: HostTask> {
    /// The pool that has its handler.
    pool: u64,
    method: u16,
    /// Set by whoever runs or cancels the task.
    claimed: AtomicBool,
    /// When it was submitted, if its times are measured.
    submitted: Option<Instant>,
    task: UnsafeCell<Option<T>>,
    completion: Completion<T::Output>,
}

// SAFETY: the task is accessed only by the thread that set `claimed`, and the completion looks after itself. Tasks and
// outputs are `Send`.
unsafe impl<T: HostTask> Sync for CpuTask<T> {}

impl<T: HostTask> CpuTask<T> {
    /// Makes the place of a task whose handler has this index in this pool.
    #[inline]
    pub(crate) fn new(task: T, pool: u64, method: u16, submitted: Option<Instant>) -> Arc<Self> {
        Arc::new(Self {
            pool,
            method,
            claimed: AtomicBool::new(false),
            submitted,
            task: UnsafeCell::new(Some(task)),
            completion: Completion::default(),
        })
    }

    /// Takes the task out, for the first who asks.
    #[inline]
    pub(crate) fn claim(&self) -> Option<T> {
        if self.claimed.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: this thread alone found the task unclaimed.
        unsafe { (*self.task.get()).take() }
    }
}

impl<T: HostTask> Place<T::Output> for CpuTask<T> {
    fn completion(&self) -> &Completion<T::Output> {
        &self.completion
    }

    fn runnable(&self) -> Option<&dyn Run> {
        (!self.claimed.load(Ordering::Relaxed)).then_some(self)
    }
}

/// A task whose type is not known. It is run or cancelled once; later calls do nothing.
pub(crate) trait Run: Send + Sync {
    /// Returns the pool that has the handler.
    fn pool(&self) -> u64;
    /// Returns the index of the handler.
    fn method(&self) -> u16;
    /// Runs the handler, counts the task, and completes the future; unless the task was claimed before.
    fn run(&self, method: &Method, counters: &MethodCounters);
    /// Completes the future with an error. Returns `false` if the task was claimed before.
    fn cancel(&self, error: TaskError) -> bool;
}

impl<T: HostTask> Run for CpuTask<T> {
    fn pool(&self) -> u64 {
        self.pool
    }

    fn method(&self) -> u16 {
        self.method
    }

    fn run(&self, method: &Method, counters: &MethodCounters) {
        let Some(task) = self.claim() else {
            return;
        };
        let times = self.submitted.map(|since| Times::start(Some(since)));
        let result = method.run_typed(task);
        let status = match &result {
            Ok(_) => status::DONE,
            Err(TaskError::Failed(_)) => status::FAILED,
            _ => status::PANICKED,
        };
        counters.count(status, times);
        // SAFETY: only who has claimed the task completes it.
        unsafe { self.completion.complete(result) };
    }

    fn cancel(&self, error: TaskError) -> bool {
        let Some(task) = self.claim() else {
            return false;
        };
        // The task ends before its future says so.
        contain("the end of a task", || drop(task));
        // SAFETY: only who has claimed the task completes it.
        unsafe { self.completion.complete(Err(error)) };
        true
    }
}

/// A task that moves, on its way to a worker. Dropped, it completes the future with [`TaskError::Closed`] if the task was
/// not run.
pub(crate) struct PointerJob(Arc<dyn Run>);

impl PointerJob {
    /// Makes the way of a task to a worker.
    #[inline]
    pub(crate) fn new(task: Arc<dyn Run>) -> Self {
        Self(task)
    }

    /// Returns the task.
    pub(crate) fn task(&self) -> &dyn Run {
        &*self.0
    }

    /// Answers the task as closed. Returns `false` if it was claimed before.
    pub(crate) fn close(self) -> bool {
        self.0.cancel(TaskError::Closed)
    }
}

impl Drop for PointerJob {
    fn drop(&mut self) {
        self.0.cancel(TaskError::Closed);
    }
}

/// The right to answer a copied task. Dropped, it answers that the queue was closed.
pub(crate) struct Reply(To);

enum To {
    Nobody,
    /// An entry in a segment, which a kernel polls.
    Kernel(Arc<Segment>, Call),
    /// A future of CPU code, whose task others may claim.
    Host(Arc<dyn CopiedTask>),
    /// A future of CPU code, whose task was claimed for this reply.
    Claimed(Arc<dyn CopiedTask>),
}

impl Reply {
    /// Makes one that does nothing.
    pub(crate) fn nobody() -> Self {
        Self(To::Nobody)
    }

    /// Makes one to a kernel's future.
    pub(crate) fn kernel(segment: &Arc<Segment>, call: Call) -> Self {
        if call.future == NO_FUTURE {
            return Self::nobody();
        }
        Self(To::Kernel(segment.clone(), call))
    }

    /// Makes the only one to a task of CPU code.
    pub(crate) fn host(task: Arc<dyn CopiedTask>) -> Self {
        Self(To::Host(task))
    }

    /// Claims the task before its handler is called. Returns `false` if a handler that waits for it has run it.
    #[inline]
    pub(crate) fn claim(&mut self) -> bool {
        match std::mem::replace(&mut self.0, To::Nobody) {
            To::Host(task) => {
                let claimed = task.claim_copy();
                if claimed {
                    self.0 = To::Claimed(task);
                }
                claimed
            }
            other => {
                self.0 = other;
                true
            }
        }
    }

    /// Answers, where an output's bytes are those at the start of `output`.
    #[inline]
    pub(crate) fn answer(mut self, outcome: Outcome, output: &[u8]) {
        self.answer_once(outcome, output);
    }

    /// Answers nothing: the task was not submitted.
    pub(crate) fn forget(mut self) {
        self.0 = To::Nobody;
    }

    /// Answers the task as closed. Returns `false` if it was claimed before.
    pub(crate) fn close(mut self) -> bool {
        let was_waiting = self.claim();
        drop(self);
        was_waiting
    }

    fn answer_once(&mut self, outcome: Outcome, output: &[u8]) {
        let output = output.get(..outcome.length as usize).unwrap_or_default();
        match std::mem::replace(&mut self.0, To::Nobody) {
            To::Nobody => {}
            To::Kernel(segment, call) => segment.answer(call, outcome.status, output),
            To::Host(task) => {
                if task.claim_copy() {
                    // SAFETY: it was claimed here.
                    unsafe { task.complete(outcome.status, output) };
                }
            }
            // SAFETY: it was claimed for this reply, which no longer has it.
            To::Claimed(task) => unsafe { task.complete(outcome.status, output) },
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer_once(Outcome::without_output(status::CLOSED), &[]);
    }
}

/// A task of CPU code that was copied into a ring.
pub(crate) trait CopiedTask: Send + Sync {
    /// Claims the task for its copy. Returns `false` if it was claimed before.
    fn claim_copy(&self) -> bool;

    /// Stores the output, or the error that a status stands for.
    ///
    /// # Safety
    /// It is called once, by whoever has claimed the task.
    unsafe fn complete(&self, status: u8, output: &[u8]);
}

impl<T: Task> CopiedTask for CpuTask<T> {
    fn claim_copy(&self) -> bool {
        self.claim().is_some()
    }

    unsafe fn complete(&self, status: u8, output: &[u8]) {
        let result = match status {
            status::DONE => {
                bytemuck::try_pod_read_unaligned(output).map_err(|_| TaskError::BadOutput)
            }
            status::FAILED => {
                let code = bytemuck::try_pod_read_unaligned::<[u8; 4]>(output);
                let code = code.map_or(0, u32::from_le_bytes);
                Err(TaskError::Failed(TaskFailure(code)))
            }
            status::PANICKED => Err(TaskError::Panicked),
            status::UNKNOWN_METHOD => Err(TaskError::UnknownMethod),
            status::BAD_PAYLOAD => Err(TaskError::BadPayload),
            _ => Err(TaskError::Closed),
        };
        // SAFETY: the caller makes the same promise.
        unsafe { self.completion.complete(result) };
    }
}

/// The bytes of a task, to be copied to a worker. All of them are allocated when the pool is made.
pub(crate) struct CopiedJob {
    /// The index of its handler.
    pub(crate) method: u16,
    pub(crate) reply: Reply,
    /// When the polling thread found it, if its times are measured.
    pub(crate) found: Option<Instant>,
    pub(crate) length: u32,
    /// Aligned as payloads are.
    pub(crate) payload: Box<[u128]>,
}

impl CopiedJob {
    /// Makes an empty job with room for payloads of this length.
    pub(crate) fn with_room(payload_bytes: u32) -> Self {
        Self {
            method: 0,
            reply: Reply::nobody(),
            found: None,
            length: 0,
            payload: vec![0; (payload_bytes as usize).div_ceil(size_of::<u128>())].into(),
        }
    }

    /// Returns the place of a task's bytes, of this length.
    pub(crate) fn begin_payload(&mut self, length: u32) -> &mut [u8] {
        self.length = length;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.payload);
        bytes.get_mut(..length as usize).unwrap_or_default()
    }

    /// Returns the task's bytes.
    pub(crate) fn payload(&self) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.payload);
        bytes.get(..self.length as usize).unwrap_or_default()
    }

    /// Takes the reply out.
    pub(crate) fn take_reply(&mut self) -> Reply {
        std::mem::replace(&mut self.reply, Reply::nobody())
    }
}
