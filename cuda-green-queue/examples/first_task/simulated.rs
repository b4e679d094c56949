//! The kernel's body for simulated drivers.

use cuda_green::CudaDevice;
use cuda_green_queue::simulated::{DeviceSide, Place};

pub fn register(device: &CudaDevice) {
    let Some(simulator) = device.driver().simulator() else {
        return;
    };
    simulator.register_concurrent_kernel("squares", |launch| {
        let queue = DeviceSide::argument(launch, 0);
        let (Some(queue), Some(results)) = (queue, launch.arg_u64(1)) else {
            return;
        };
        for thread in 0..32 {
            let task = super::Square::new(thread);
            let future = queue.call(Place::default(), &task);
            if let Ok(square) = future.and_then(|mut future| future.wait()) {
                let _ = launch.store_u64(results + 8 * thread, square);
            }
        }
    });
}
