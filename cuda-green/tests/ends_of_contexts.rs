//! The end of a context: what runs in it is waited for, in streams that are gone, too.

#![allow(clippy::unwrap_used)] // these are tests

use std::time::Duration;

use cuda_green::{
    CudaDevice, Driver, GreenContext, GreenContextConfig, LaunchConfig, Module, Result, Stream,
    sim::{BlockCost, Sim},
};

const PTX: &str = ".version 7.0\n.target sm_70\n.address_size 64\n\
    .visible .entry busy() { ret; }\n";
const BUSY: Duration = Duration::from_millis(10);

struct Scene {
    simulator: Sim,
    device: CudaDevice,
    module: Module,
}

impl Scene {
    fn new(profile: &str) -> Result<Self> {
        let simulator = Sim::new(profile)?;
        simulator.register_kernel_cost("busy", |_| BlockCost::busy(BUSY));
        let device = Driver::simulated(&simulator)?.device(0)?;
        let module = Module::load_ptx(&device, PTX)?;
        Ok(Self {
            simulator,
            device,
            module,
        })
    }

    fn context(&self) -> Result<GreenContext> {
        let all = [self.device.sm_resource()?];
        GreenContext::from_resources(&all, None, GreenContextConfig::default())
    }

    fn busy(&self, stream: &Stream) -> Result<()> {
        let kernel = self.module.kernel("busy")?;
        // SAFETY: the kernel takes nothing.
        unsafe { stream.launch(&kernel, &LaunchConfig::linear(1, 32), &[]) }
    }
}

/// Its SMs are idle when its end is over: `close` and the drop of the last handle wait.
#[test]
fn what_runs_in_a_context_is_waited_for_at_its_end() -> Result<()> {
    let ends: [fn(GreenContext) -> Result<()>; 2] = [
        |context| Ok(context.close()?),
        |context| {
            drop(context);
            Ok(())
        },
    ];
    for profile in ["h200@12.4", "h200@13.0", "h200@13.1"] {
        for end in ends {
            let scene = Scene::new(profile)?;
            let context = scene.context()?;
            let stream = context.create_stream()?;
            scene.busy(&stream)?;
            drop(stream);
            let before = scene.simulator.now();
            assert!(before < BUSY, "the stream's end does not wait: {before:?}");
            end(context)?;
            let now = scene.simulator.now();
            assert!(now >= BUSY, "{profile}: its work goes on at {now:?}");
        }
    }
    Ok(())
}
