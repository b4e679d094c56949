//! Driver calls that fail, one after another.
//!
//! Apart from `library`: cuda-green keeps what it could not end in one list for the whole process, and a test that counts
//! what is left must not run beside another.

#![allow(clippy::unwrap_used, clippy::panic)] // tests

use cuda_green::{CUresult, ContextPolicy, Driver, GpuMemoryPool, GreenContext, sim::Sim};
use cuda_green_embed::{CublasLt, Error, InferencePrecision, ProductShape};

/// A product of 16 × 16 matrices.
const SHAPE: ProductShape = ProductShape {
    rows: 16,
    inputs: 16,
    outputs: 16,
    precision: InferencePrecision::FP32,
    with_bias: true,
    with_residual: false,
};

/// What a program does with cuBLASLt, from the first call to the last.
fn use_it(sim: &Sim) -> Result<(), Error> {
    let device = Driver::simulated(sim)?.device(0)?;
    let pool = GpuMemoryPool::on(&device, 1 << 20)?;
    let buffer = pool.allocate(1 << 16)?;
    let stream = GreenContext::primary(&device, ContextPolicy::default())?.create_stream()?;
    let cublaslt = CublasLt::load(&device)?;
    let product = cublaslt.product(SHAPE, 0, Some(8))?;
    let at = buffer.address();
    // SAFETY: the matrices lie in the buffer, which lives until the stream was waited for.
    unsafe { product.launch(&stream, at, at, at, 0, at + 4096, 0)? };
    Ok(stream.synchronize()?)
}

#[test]
fn each_driver_call_that_fails_is_an_error_and_leaves_nothing() {
    let sim = Sim::new("h200@13.0").unwrap();
    sim.start_trace();
    use_it(&sim).unwrap();
    let calls = sim.take_trace().len() as u64;
    sim.assert_no_leaks();
    assert!(calls > 20);
    let mut failed = 0;
    for nth in 1..=calls {
        let sim = Sim::new("h200@13.0").unwrap();
        sim.start_trace();
        sim.fail("*", nth, CUresult::CUDA_ERROR_OUT_OF_MEMORY)
            .unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| use_it(&sim)));
        let result = result.unwrap_or_else(|_| panic!("call {nth} of {calls} ends in a panic"));
        failed += u32::from(result.is_err());
        let refused = sim.take_trace()[nth as usize - 1].entry_point;
        // A driver that refuses to destroy an object keeps it.
        let ends = ["Destroy", "Free", "Unload", "Release"]
            .iter()
            .any(|end| refused.contains(end));
        if !ends {
            sim.assert_no_leaks();
        }
    }
    assert!(failed > 10, "{failed} of {calls} failures showed");
}
