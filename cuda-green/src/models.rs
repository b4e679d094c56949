//! Model slots: named models in one memory budget, loaded when needed and evicted when others need the room.

mod events;
mod load;
mod load_cycles;
mod model_slots;
mod slot_table;
mod status;

pub use model_slots::{ModelLease, ModelSlots};
pub use slot_table::{EvictionPolicy, ModelNeeds};
pub use status::{SlotStatus, SlotsStatus};
