//! A simulated GPU with a module of kernels whose bodies are Rust.

use bytemuck::{Pod, Zeroable};
use cuda_green::{
    ContextPolicy, CudaDevice, Driver, GreenContext, Kernel, Module, Stream,
    sim::{Launch, Sim},
};
use cuda_green_queue::Task;

/// A resident kernel's parameter and a submitting kernel's are of 64 bytes both.
pub const PTX: &str = ".version 7.0\n.target sm_70\n.address_size 64\n\
    .visible .entry submits(.param .align 8 .b8 queue[64], .param .u64 result) { ret; }\n\
    .visible .entry does_nothing(.param .align 8 .b8 queue[64], .param .u64 result) { ret; }\n\
    .visible .entry resident(.param .align 8 .b8 inbox[64], .param .u64 result) { ret; }\n";

/// Asks for the square of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Square(pub u64);

impl Task for Square {
    const METHOD: u16 = 1;
    type Output = u64;
}

/// Adds a number to a sum; nobody wants an answer.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Add(pub u64);

impl Task for Add {
    const METHOD: u16 = 2;
    type Output = ();
}

pub struct Gpu {
    pub sim: Sim,
    pub device: CudaDevice,
    pub context: GreenContext,
    module: Module,
}

impl Gpu {
    pub fn new() -> Self {
        let sim = Sim::new("h200@13.0").unwrap();
        let device = Driver::simulated(&sim).unwrap().device(0).unwrap();
        let context = GreenContext::primary(&device, ContextPolicy::default()).unwrap();
        let module = Module::load_ptx(&device, PTX).unwrap();
        Self {
            sim,
            device,
            context,
            module,
        }
    }

    pub fn stream(&self) -> Stream {
        self.context.create_stream().unwrap()
    }

    /// Returns a kernel without a body.
    pub fn bare(&self, name: &str) -> Kernel {
        self.module.kernel(name).unwrap()
    }

    /// Gives a kernel its body and returns it.
    pub fn kernel(&self, name: &str, body: impl Fn(&Launch<'_>) + Send + Sync + 'static) -> Kernel {
        self.sim.register_concurrent_kernel(name, body);
        self.bare(name)
    }
}
