//! A simulated GPU that computes, and matrices in its memory.

use cuda_green::{
    ContextId, CudaDevice, Driver, GpuBuffer, GpuMemoryPool, SmPartitionManager, Stream,
    sim::{LeakGuard, Sim},
};
use cuda_green_embed::InferencePrecision;
use half::{bf16, f16};

/// A simulated GPU with the encoder's kernels, and a stream in a partition of it. Nothing may be left of it.
pub struct Gpu {
    pub stream: Stream,
    pub pool: GpuMemoryPool,
    pub device: CudaDevice,
    /// Dropped last.
    leaks: Option<LeakGuard>,
}

impl Gpu {
    pub fn new() -> Self {
        let sim = Sim::new("h200@13.0").unwrap();
        cuda_green_embed::register_kernels(&sim);
        let device = Driver::simulated(&sim).unwrap().device(0).unwrap();
        let manager = SmPartitionManager::on(&device).unwrap();
        manager.init_quad_partition().unwrap();
        let partition = manager.get_context(ContextId::Embedding).unwrap();
        Self {
            stream: partition.create_stream().unwrap(),
            pool: GpuMemoryPool::on(&device, 1 << 30).unwrap(),
            device,
            leaks: Some(sim.leak_guard()),
        }
    }

    /// Lets objects be left, as they are after a fault: the driver refuses to destroy them.
    pub fn expect_fault(&mut self) {
        std::mem::forget(self.leaks.take());
    }

    /// Puts values into memory as elements of a precision.
    pub fn put(&self, precision: InferencePrecision, values: &[f32]) -> GpuBuffer {
        let bytes: Vec<u8> = match precision {
            InferencePrecision::FP16 => values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_ne_bytes())
                .collect(),
            InferencePrecision::BF16 => values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_ne_bytes())
                .collect(),
            _ => values.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        };
        self.put_bytes(&bytes)
    }

    pub fn put_words(&self, words: &[u32]) -> GpuBuffer {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.put_bytes(&bytes)
    }

    fn put_bytes(&self, bytes: &[u8]) -> GpuBuffer {
        let buffer = self.pool.allocate(bytes.len().max(1)).unwrap();
        buffer.copy_from(bytes).unwrap();
        buffer
    }

    /// Waits for the stream and reads a buffer.
    pub fn get(&self, precision: InferencePrecision, buffer: &GpuBuffer) -> Vec<f32> {
        let bytes = self.get_bytes(buffer);
        match precision {
            InferencePrecision::FP16 => bytes
                .chunks_exact(2)
                .map(|half| f16::from_ne_bytes(half.try_into().unwrap()).to_f32())
                .collect(),
            InferencePrecision::BF16 => bytes
                .chunks_exact(2)
                .map(|half| bf16::from_ne_bytes(half.try_into().unwrap()).to_f32())
                .collect(),
            _ => bytes
                .chunks_exact(4)
                .map(|word| f32::from_ne_bytes(word.try_into().unwrap()))
                .collect(),
        }
    }

    pub fn get_words(&self, buffer: &GpuBuffer) -> Vec<u32> {
        let bytes = self.get_bytes(buffer);
        let words = bytes.chunks_exact(4);
        words
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect()
    }

    fn get_bytes(&self, buffer: &GpuBuffer) -> Vec<u8> {
        self.stream.synchronize().unwrap();
        let mut bytes = vec![0; buffer.len()];
        buffer.copy_to(&mut bytes).unwrap();
        bytes
    }
}

/// The precisions that kernels are compiled for.
pub const PRECISIONS: [InferencePrecision; 3] = [
    InferencePrecision::FP32,
    InferencePrecision::FP16,
    InferencePrecision::BF16,
];

/// Returns the relative error of rounding to a precision, and of sums in `f32`.
pub fn epsilon(precision: InferencePrecision) -> f64 {
    match precision {
        InferencePrecision::FP16 => 1.0 / 1024.0,
        InferencePrecision::BF16 => 1.0 / 128.0,
        _ => 1e-5,
    }
}

/// Rounds values to a precision, as the memory does.
pub fn rounded(precision: InferencePrecision, values: &[f32]) -> Vec<f32> {
    let round = |v: &f32| match precision {
        InferencePrecision::FP16 => f16::from_f32(*v).to_f32(),
        InferencePrecision::BF16 => bf16::from_f32(*v).to_f32(),
        _ => *v,
    };
    values.iter().map(round).collect()
}

/// Numbers from -1 to 1 that look random.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    pub fn take(&mut self, count: usize, precision: InferencePrecision) -> Vec<f32> {
        let values: Vec<f32> = (0..count).map(|_| self.next()).collect();
        rounded(precision, &values)
    }
}

/// Fails if a value is further from the expected one than the error of the precision, relative to `scale`.
#[track_caller]
pub fn assert_close(precision: InferencePrecision, got: &[f32], expected: &[f64], scale: f64) {
    assert_eq!(got.len(), expected.len());
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let allowed = epsilon(precision) * (expected.abs() + scale);
        let off = (f64::from(*got) - expected).abs();
        assert!(
            off <= allowed,
            "{} [{index}]: {got} instead of {expected}",
            precision.name()
        );
    }
}
