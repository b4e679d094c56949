//! A program of cudarc's: a device, a stream, an event, a copy there and back.

use cudarc::driver::{CudaContext, result};

pub fn run() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let event = context.new_event(None).unwrap();
    event.record(&stream).unwrap();
    stream.wait(&event).unwrap();
    let sent = [1u32, 2, 3, 4];
    let mut received = [0u32; 4];
    // Its safe allocations come from the device's default pool, which the simulator has none of.
    // SAFETY: the address is live until it is freed, as large as the slices, and the stream is waited for.
    unsafe {
        let address = result::malloc_sync(size_of_val(&sent)).unwrap();
        result::memcpy_htod_async(address, &sent, stream.cu_stream()).unwrap();
        result::memcpy_dtoh_async(&mut received, address, stream.cu_stream()).unwrap();
        stream.synchronize().unwrap();
        result::free_sync(address).unwrap();
    }
    assert_eq!(received, sent);
    println!("went well");
}
