//! A program of cudarc's: a device, a stream, an event, a copy there and back, a graph.

use cudarc::driver::{CudaContext, sys};

pub fn run() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let event = context.new_event(None).unwrap();
    event.record(&stream).unwrap();
    stream.wait(&event).unwrap();
    // It would wait for events of outside the capture otherwise, which a capture cannot.
    // SAFETY: all work is in one stream.
    unsafe { context.disable_event_tracking() };
    let sent = [1u32, 2, 3, 4];
    let mut buffer = stream.clone_htod(&sent).unwrap();
    assert_eq!(stream.clone_dtoh(&buffer).unwrap(), sent);
    // Its memory set by a graph.
    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
        .unwrap();
    stream.memset_zeros(&mut buffer).unwrap();
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    assert_eq!(stream.clone_dtoh(&buffer).unwrap(), sent);
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&buffer).unwrap(), [0; 4]);
    println!("went well");
}
