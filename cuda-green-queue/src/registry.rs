//! The registry of handlers: by method number for tasks that were copied, by type for those that move.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    contain::discard_handlers,
    error::{Error, Result},
    layout::{SLOT_HEADER, status},
    task::{HostTask, Task, TaskError, TaskFailure},
};

/// The number in `Registry::by_method` of a method without a handler.
const NONE: u16 = u16::MAX;
/// The method number that is reserved: it ends resident kernels.
const RESERVED: u16 = u16::MAX;
/// The alignment of a payload in a slot.
const ALIGNMENT: usize = SLOT_HEADER as usize;

/// A handler for tasks that move.
type Typed<T> = dyn Fn(T) -> Result<<T as HostTask>::Output, TaskFailure> + Send + Sync;
/// A handler for tasks that were copied: it is called with a payload of its method's length, and writes an output of
/// its method's length.
type Copied = dyn Fn(&[u8], &mut [u8]) -> Result<(), TaskFailure> + Send + Sync;

/// The answer to a task that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// One of [`status`].
    pub(crate) status: u8,
    /// The length of the output.
    pub(crate) length: u32,
}

impl Outcome {
    /// Makes one that is a status alone.
    pub(crate) fn without_output(status: u8) -> Self {
        Self { status, length: 0 }
    }
}

/// One handler.
pub(crate) struct Method {
    /// The name of the task's type.
    pub(crate) name: &'static str,
    /// `None` for a task that kernels cannot submit.
    pub(crate) number: Option<u16>,
    /// Whether it runs on the polling thread.
    pub(crate) inline: bool,
    payload: u32,
    output: u32,
    copied: Option<Box<Copied>>,
    /// An `Arc<Typed<T>>`.
    typed: Box<dyn Any + Send + Sync>,
}

/// All handlers of a queue, by index.
pub(crate) struct Registry {
    methods: Vec<Method>,
    by_method: Vec<u16>,
    by_type: HashMap<TypeId, u16, BuildHasherDefault<TypeIdHasher>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.methods.iter().map(|method| method.name);
        f.debug_list().entries(names).finish()
    }
}

impl Registry {
    /// Makes one without handlers, where tasks and outputs may have these lengths.
    pub(crate) fn new() -> Self {
        Self {
            methods: Vec::new(),
            by_method: Vec::new(),
            by_type: HashMap::default(),
        }
    }

    /// Adds a handler for a task that kernels can submit.
    pub(crate) fn add<T: Task>(
        &mut self,
        inline: bool,
        handler: impl Fn(T) -> Result<T::Output, TaskFailure> + Send + Sync + 'static,
    ) -> Result<()> {
        let name = std::any::type_name::<T>();
        let refused = |reason: String| Error::InvalidHandler { task: name, reason };
        if T::METHOD == RESERVED {
            return Err(refused(format!("method number {RESERVED} is reserved")));
        }
        if let Some(other) = self.find(T::METHOD).and_then(|index| self.get(index)) {
            return Err(refused(format!(
                "method number {} already has a handler, for {}",
                T::METHOD,
                other.name
            )));
        }
        for (what, alignment) in [
            ("task", align_of::<T>()),
            ("output", align_of::<T::Output>()),
        ] {
            if alignment > ALIGNMENT {
                return Err(refused(format!(
                    "the {what} is aligned to {alignment} bytes, and at most {ALIGNMENT} are possible"
                )));
            }
        }
        let typed: Arc<Typed<T>> = Arc::new(handler);
        let copied = typed.clone();
        self.push::<T>(Method {
            name,
            number: Some(T::METHOD),
            inline,
            payload: bytes_of::<T>(name)?,
            output: bytes_of::<T::Output>(name)?,
            copied: Some(Box::new(move |payload, output| {
                let value = copied(bytemuck::pod_read_unaligned(payload))?;
                output.copy_from_slice(bytemuck::bytes_of(&value));
                Ok(())
            })),
            typed: Box::new(typed),
        })?;
        let method = usize::from(T::METHOD);
        if self.by_method.len() <= method {
            self.by_method.resize(method + 1, NONE);
        }
        if let Some(entry) = self.by_method.get_mut(method) {
            *entry = (self.methods.len() - 1) as u16;
        }
        Ok(())
    }

    /// Adds a handler for a task that only CPU code submits.
    pub(crate) fn add_host<T: HostTask>(
        &mut self,
        handler: impl Fn(T) -> Result<T::Output, TaskFailure> + Send + Sync + 'static,
    ) -> Result<()> {
        let typed: Arc<Typed<T>> = Arc::new(handler);
        self.push::<T>(Method {
            name: std::any::type_name::<T>(),
            number: None,
            inline: false,
            payload: 0,
            output: 0,
            copied: None,
            typed: Box::new(typed),
        })
    }

    fn push<T: 'static>(&mut self, method: Method) -> Result<()> {
        let refused = |reason: &str| Error::InvalidHandler {
            task: method.name,
            reason: reason.to_owned(),
        };
        if self.by_type.contains_key(&TypeId::of::<T>()) {
            return Err(refused("the type already has a handler"));
        }
        let Some(index) = u16::try_from(self.methods.len())
            .ok()
            .filter(|index| *index != NONE)
        else {
            return Err(refused("there are too many handlers"));
        };
        self.by_type.insert(TypeId::of::<T>(), index);
        self.methods.push(method);
        Ok(())
    }

    /// Checks that all tasks and outputs fit a queue's slots and answers.
    pub(crate) fn check(&self, payload_bytes: u32, output_bytes: u32) -> Result<()> {
        for method in &self.methods {
            for (what, bytes, room, setting) in [
                ("task", method.payload, payload_bytes, "payload_bytes"),
                ("output", method.output, output_bytes, "output_bytes"),
            ] {
                if bytes > room {
                    return Err(Error::InvalidHandler {
                        task: method.name,
                        reason: format!(
                            "the {what} has {bytes} bytes, and the queue has room for {room}: set {setting}"
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    /// Returns the bytes of the largest task and of the largest output that are copied, a failure's code included.
    pub(crate) fn largest(&self) -> (u32, u32) {
        let methods = self.methods.iter();
        methods.fold((0, 4), |(payload, output), method| {
            (payload.max(method.payload), output.max(method.output))
        })
    }

    /// Returns all handlers, in the order of their indices.
    pub(crate) fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Returns the index of a method number's handler.
    #[inline]
    pub(crate) fn find(&self, method: u16) -> Option<u16> {
        let index = *self.by_method.get(usize::from(method))?;
        (index != NONE).then_some(index)
    }

    /// Returns the index of a type's handler.
    #[inline]
    pub(crate) fn find_type<T: 'static>(&self) -> Option<u16> {
        self.by_type.get(&TypeId::of::<T>()).copied()
    }

    /// Returns a handler.
    #[inline]
    pub(crate) fn get(&self, index: u16) -> Option<&Method> {
        self.methods.get(usize::from(index))
    }
}

impl Method {
    /// Returns the length of a task.
    #[inline]
    pub(crate) fn payload_bytes(&self) -> u32 {
        self.payload
    }

    /// Runs the handler for a task that was copied. The output is written to the start of `output`, which has room for
    /// every output of the queue and for a failure's code.
    #[inline]
    pub(crate) fn run(&self, payload: &[u8], output: &mut [u8]) -> Outcome {
        let of = |status, length| Outcome { status, length };
        let Some(copied) = &self.copied else {
            return of(status::UNKNOWN_METHOD, 0);
        };
        if payload.len() != self.payload as usize {
            return of(status::BAD_PAYLOAD, 0);
        }
        let Some(room) = output.get_mut(..self.output as usize) else {
            debug_assert!(false, "{} has no room for its output", self.name);
            return of(status::CLOSED, 0);
        };
        // A handler that panics leaves only values of its own behind, and those behind a lock, which poisons.
        match catch_unwind(AssertUnwindSafe(|| copied(payload, room))) {
            Ok(Ok(())) => of(status::DONE, self.output),
            Ok(Err(TaskFailure(code))) => {
                let code = code.to_le_bytes();
                match output.get_mut(..code.len()) {
                    Some(room) => {
                        room.copy_from_slice(&code);
                        of(status::FAILED, code.len() as u32)
                    }
                    None => of(status::FAILED, 0),
                }
            }
            Err(panic) => {
                discard_handlers(self.name, panic);
                of(status::PANICKED, 0)
            }
        }
    }

    /// Runs the handler for a task that moves.
    #[inline]
    pub(crate) fn run_typed<T: HostTask>(&self, task: T) -> Result<T::Output, TaskError> {
        let Some(typed) = self.typed.downcast_ref::<Arc<Typed<T>>>() else {
            return Err(TaskError::UnknownMethod);
        };
        match catch_unwind(AssertUnwindSafe(|| typed(task))) {
            Ok(result) => result.map_err(TaskError::Failed),
            Err(panic) => {
                discard_handlers(self.name, panic);
                Err(TaskError::Panicked)
            }
        }
    }
}

fn bytes_of<T>(task: &'static str) -> Result<u32> {
    u32::try_from(size_of::<T>()).map_err(|_| Error::InvalidHandler {
        task,
        reason: "it has more than 4 GiB".to_owned(),
    })
}

/// A hasher for type ids, which are hashes already.
#[derive(Default)]
struct TypeIdHasher(u64);

impl Hasher for TypeIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
