//! The first program of the README, which a test compares with it: a kernel in one of four partitions, and its result.

use cuda_green::{ContextId, LaunchConfig, Module, SmPartitionManager, kernels};

fn main() -> cuda_green::Result<()> {
    let manager = SmPartitionManager::new(0)?; // the first GPU
    manager.init_quad_partition()?; // Embedding, Dream, Training, Reserved
    println!("{}", manager.allocation_status());

    let embedding = manager.get_context(ContextId::Embedding)?;
    let stream = embedding.create_stream()?; // its kernels run on a quarter of the SMs
    let module = Module::load_ptx(embedding.device(), kernels::PTX)?; // or your own PTX
    let kernel = module.kernel(kernels::SM_IDS)?; // counts the blocks that each SM runs

    let mut blocks = [0u32; 256];
    let counts = embedding
        .memory()?
        .allocate(size_of_val(&blocks))?
        .typed::<u32>()?;
    counts.copy_from(&blocks)?;
    let config = LaunchConfig::linear(1024, 256); // 1024 blocks of 256 threads
    // SAFETY: the kernel takes the address of counters, their number, and nanoseconds to wait; the
    // buffer outlives the launch, whose end is waited for.
    unsafe { stream.launch(&kernel, &config, &[&counts.address(), &256u32, &10_000u32])? };
    stream.synchronize()?;
    counts.copy_to(&mut blocks)?;
    let sms = blocks.iter().filter(|count| **count > 0).count();
    println!("{} blocks ran on {sms} SMs", blocks.iter().sum::<u32>());
    Ok(())
}
