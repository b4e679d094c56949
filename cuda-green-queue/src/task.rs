//! Tasks: values that a handler on the CPU is called with.

use bytemuck::Pod;

/// A task that kernels can submit: plain data, with a number that says which handler it is for.
///
/// A kernel may write any bits, so a task and its output are [`Pod`]. In CUDA C the same type is a struct with a
/// `static constexpr unsigned short method` and a `using Output`; both have the layout of C.
///
/// ```
/// use bytemuck::{Pod, Zeroable};
/// use cuda_green_queue::Task;
///
/// /// Asks for the address of a page.
/// #[derive(Clone, Copy, Pod, Zeroable)]
/// #[repr(C)]
/// struct Lookup {
///     page: u64,
/// }
///
/// impl Task for Lookup {
///     const METHOD: u16 = 7;
///     type Output = u64;
/// }
/// ```
pub trait Task: Pod + Send {
    /// The number of the task's handler, from 0 to 0xFFFE. 0xFFFF is reserved.
    const METHOD: u16;
    /// The handler's output.
    type Output: Pod + Send;
}

/// A task that CPU code submits: any value that can go to another thread.
///
/// Every [`Task`] is one. Other types need not be plain data, since the value itself moves.
///
/// ```
/// struct Log(String);
///
/// impl cuda_green_queue::HostTask for Log {
///     type Output = ();
/// }
/// ```
pub trait HostTask: Send + 'static {
    /// The handler's output.
    type Output: Send + 'static;
}

impl<T: Task> HostTask for T {
    type Output = <T as Task>::Output;
}

/// The error of a handler: a code, which a kernel gets too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the handler failed with code {0}")]
pub struct TaskFailure(pub u32);

/// The reason why a task has no output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The handler returned a failure.
    #[error(transparent)]
    Failed(#[from] TaskFailure),
    /// The handler panicked.
    #[error("the handler panicked")]
    Panicked,
    /// No handler has the task's method number.
    #[error("no handler has the task's method number")]
    UnknownMethod,
    /// The payload is not of the length that the method's task type has.
    #[error("the payload is not of the length of the method's task type")]
    BadPayload,
    /// The answer has no output of the method's output type: a resident kernel gave another one, or none.
    #[error("the answer has no output of the method's output type")]
    BadOutput,
    /// The queue was dropped before the task was run.
    #[error("the queue was closed before the task was run")]
    Closed,
    /// The output was already returned by an earlier call.
    #[error("the output was already taken")]
    Taken,
    /// A handler waits for a task that it runs itself, whose handler waits for another, and so on: too many of them on
    /// one thread.
    #[error("too many handlers wait for each other on one thread")]
    TooDeep,
}

/// The reason why a task was not submitted. It has the task in it.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError<T> {
    /// There is no room now.
    #[error("the queue is full")]
    Full(T),
    /// The queue takes no more tasks.
    #[error("the queue is closed")]
    Closed(T),
    /// No handler was registered for the task's type.
    #[error("no handler is registered for {}", std::any::type_name::<T>())]
    NoHandler(T),
    /// The type's handler takes tasks that move alone: it was added by
    /// [`host_handler`](crate::TaskQueueBuilder::host_handler), and the method number may be another type's.
    #[error("the handler for {} takes no copies: add it by `handler`", std::any::type_name::<T>())]
    OnlyMoves(T),
    /// The queue has no such lane, or no such priority.
    #[error("the queue has no such lane or priority")]
    NoSuchRing(T),
    /// The queue has no room for such a task, or for its output.
    #[error(
        "the queue has no room for {}, or for its output: make it with more `payload_bytes` or `output_bytes`",
        std::any::type_name::<T>()
    )]
    TooLarge(T),
    /// The task has the method number that is reserved, 0xFFFF.
    #[error("{} has the method number 65535, which is reserved", std::any::type_name::<T>())]
    ReservedMethod(T),
}

impl<T> SubmitError<T> {
    /// Returns the task.
    pub fn into_task(self) -> T {
        match self {
            Self::Full(task)
            | Self::Closed(task)
            | Self::NoHandler(task)
            | Self::OnlyMoves(task)
            | Self::NoSuchRing(task)
            | Self::TooLarge(task)
            | Self::ReservedMethod(task) => task,
        }
    }
}

impl<T> std::fmt::Debug for SubmitError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
            Self::NoHandler(_) => "NoHandler",
            Self::OnlyMoves(_) => "OnlyMoves",
            Self::NoSuchRing(_) => "NoSuchRing",
            Self::TooLarge(_) => "TooLarge",
            Self::ReservedMethod(_) => "ReservedMethod",
        })
    }
}
