//! Several models in one memory budget, each a service, loaded when it is asked for and evicted when others need the
//! room.
//!
//! [`ModelSlots`](cuda_green::ModelSlots) decide who is evicted, and never evict a model with a lease. A lease is held by
//! each [`ModelHandle`] and by each request's future, so an evicted model has at most batches on the way that nobody
//! waits for. Evicting drops its [`Embedder`](crate::Embedder), which waits for those and joins its threads. Only
//! then does its memory count as free.
//!
//! # Locks
//!
//! One lock for each model, held while it is loaded, so that threads that want it at the same time read its folder once.
//! Under it: the slots' own locks, and the wait for the threads of evicted models. Those threads never wait for a load:
//! [`ModelLibrary::get`] refuses to load in a waker.

mod handle;
mod load;
mod model_library;
mod status;

pub use handle::ModelHandle;
pub use load::ModelSpec;
pub use model_library::{LibraryBuilder, ModelLibrary};
pub use status::{LibraryStatus, ModelState, ModelStatus};
