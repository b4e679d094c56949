//! Jobs: tasks on their way to a worker, either the task itself or a copy of its bytes.

use std::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytemuck::Pod;

use crate::{
    completion::Completion,
    future::Place,
    layout::{NO_FUTURE, status},
    protocol::Call,
    registry::{Method, Outcome},
    segment::Segment,
    task::{HostTask, TaskError, TaskFailure},
};

/// A task that moves, in one allocation with the place of its output.
pub(crate) struct PointerTask<T: HostTask> {
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
unsafe impl<T: HostTask> Sync for PointerTask<T> {}

impl<T: HostTask> PointerTask<T> {
    /// Takes the task out, for the first who asks.
    #[inline]
    fn claim(&self) -> Option<T> {
        if self.claimed.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: this thread alone found the task unclaimed.
        unsafe { (*self.task.get()).take() }
    }
}

impl<T: HostTask> Place<T::Output> for PointerTask<T> {
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
    /// Returns when it was submitted, if its times are measured.
    fn submitted(&self) -> Option<Instant>;
    /// Runs the handler, and completes the future. Returns one of [`status`], or `None` if it was run before.
    fn run(&self, method: &Method) -> Option<u8>;
    /// Completes the future with an error.
    fn cancel(&self, error: TaskError);
}

impl<T: HostTask> Run for PointerTask<T> {
    fn pool(&self) -> u64 {
        self.pool
    }

    fn method(&self) -> u16 {
        self.method
    }

    fn submitted(&self) -> Option<Instant> {
        self.submitted
    }

    fn run(&self, method: &Method) -> Option<u8> {
        let result = method.run_typed(self.claim()?);
        let status = match &result {
            Ok(_) => status::DONE,
            Err(TaskError::Failed(_)) => status::FAILED,
            _ => status::PANICKED,
        };
        // SAFETY: only who has claimed the task completes it.
        unsafe { self.completion.complete(result) };
        Some(status)
    }

    fn cancel(&self, error: TaskError) {
        if let Some(task) = self.claim() {
            // The task ends before its future says so.
            drop(task);
            // SAFETY: only who has claimed the task completes it.
            unsafe { self.completion.complete(Err(error)) };
        }
    }
}

/// A task that moves, on its way to a worker. Dropped, it completes the future with [`TaskError::Closed`] if the task was
/// not run.
pub(crate) struct PointerJob(Arc<dyn Run>);

impl PointerJob {
    /// Returns a job, and the place of its output.
    #[inline]
    pub(crate) fn new<T: HostTask>(
        task: T,
        pool: u64,
        method: u16,
        submitted: Option<Instant>,
    ) -> (Self, Arc<PointerTask<T>>) {
        let place = Arc::new(PointerTask {
            pool,
            method,
            claimed: AtomicBool::new(false),
            submitted,
            task: UnsafeCell::new(Some(task)),
            completion: Completion::default(),
        });
        (Self(place.clone()), place)
    }

    /// Takes the task back out of the place of a job that was not run, whose future nobody has.
    pub(crate) fn take_back<T: HostTask>(place: &PointerTask<T>) -> Option<T> {
        place.claim()
    }

    /// Returns the task.
    pub(crate) fn task(&self) -> &dyn Run {
        &*self.0
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
    /// A future of CPU code.
    Host(Arc<dyn Decode>),
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

    /// Makes the only one to a place.
    pub(crate) fn host(place: Arc<dyn Decode>) -> Self {
        Self(To::Host(place))
    }

    /// Answers, where an output's bytes are those at the start of `output`.
    #[inline]
    pub(crate) fn answer(mut self, outcome: Outcome, output: &[u8]) {
        self.answer_once(outcome, output);
    }

    fn answer_once(&mut self, outcome: Outcome, output: &[u8]) {
        let output = output.get(..outcome.length as usize).unwrap_or_default();
        match std::mem::replace(&mut self.0, To::Nobody) {
            To::Nobody => {}
            To::Kernel(segment, call) => segment.answer(call, outcome.status, output),
            // SAFETY: this is the only reply to the place, and it no longer has it.
            To::Host(place) => unsafe { place.complete(outcome.status, output) },
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer_once(Outcome::without_output(status::CLOSED), &[]);
    }
}

/// The place of the output of a task that CPU code copied into a ring.
pub(crate) trait Decode: Send + Sync {
    /// Stores the output, or the error that a status stands for.
    ///
    /// # Safety
    /// It is called once at most.
    unsafe fn complete(&self, status: u8, output: &[u8]);
}

/// The output of a task that was copied.
pub(crate) struct CopyPlace<O> {
    completion: Completion<O>,
}

impl<O> Default for CopyPlace<O> {
    fn default() -> Self {
        Self {
            completion: Completion::default(),
        }
    }
}

impl<O: Send> Place<O> for CopyPlace<O> {
    fn completion(&self) -> &Completion<O> {
        &self.completion
    }

    fn is_copied(&self) -> bool {
        true
    }
}

impl<O: Pod + Send> Decode for CopyPlace<O> {
    unsafe fn complete(&self, status: u8, output: &[u8]) {
        let result = match status {
            status::DONE => {
                bytemuck::try_pod_read_unaligned(output).map_err(|_| TaskError::BadPayload)
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
