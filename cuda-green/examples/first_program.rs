//! The first program of the README, which a test compares with it: four partitions, and a stream in one.

use cuda_green::{ContextId, SmPartitionManager};

fn main() -> cuda_green::Result<()> {
    let manager = SmPartitionManager::new(0)?; // the first GPU
    manager.init_quad_partition()?; // Embedding, Dream, Training, Reserved
    let embedding = manager.get_context(ContextId::Embedding)?;
    let stream = embedding.create_stream()?; // its kernels run on a quarter of the SMs
    println!("{}", manager.allocation_status());
    stream.synchronize()
}
