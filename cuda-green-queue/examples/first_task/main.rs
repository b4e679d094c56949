//! The first program of the documentation: a kernel asks the CPU for the squares of its threads' numbers.
//!
//! `cargo run --package cuda-green-queue --example first_task` runs it on the first GPU, and with
//! `CUDA_GREEN_DRIVER=sim:h200@13.0` on a simulated one.

mod simulated;

use cuda_green::{CudaDevice, GreenContext, LaunchConfig, Module, PinnedBuffer};
use cuda_green_queue::{NumberedTask, TaskQueue};

type Square = NumberedTask<7, u64, u64>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = CudaDevice::init(0)?; // the first GPU
    simulated::register(&device);
    let queue = TaskQueue::builder()
        .handler(|task: Square| Ok(task.input * task.input))
        .build(&device)?;
    // `squares.cu`, compiled by nvcc.
    let kernel = Module::load_ptx(&device, include_str!("squares.ptx"))?.kernel("squares")?;
    let stream = GreenContext::primary(&device, Default::default())?.create_stream()?;
    let results = PinnedBuffer::<u64>::new(&device, 32)?;
    let (argument, address) = (queue.device_queue(), results.device_address()?);
    let config = LaunchConfig::linear(1, 32);
    // SAFETY: `squares` takes a queue and the address of a word for each of its 32 threads.
    unsafe { queue.launch(&stream, &kernel, &config, &[&argument, &address])? };
    results.fence_on(&stream)?;
    println!("{:?}", results.as_slice()?); // waits for the kernel: [0, 1, 4, 9, ...
    queue.shutdown()?;
    Ok(())
}
