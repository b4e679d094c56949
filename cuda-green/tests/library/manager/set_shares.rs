//! Changes of a plan among processes as one of them sees them: work that runs, captures, closures and handles.

use std::{fs, path::PathBuf, thread, time::Duration};

use cuda_green::{
    CaptureMode, ContextPolicy, Driver, Error, Kernel, LaunchConfig, Module, NotLeft,
    NotLeftReason, Result, SharedPlan, SharingError, SmPartitionManager, Stream, kernels,
    planner::{PartitionRequest, SmRequest},
    sim::{BlockCost, Sim},
};

const WORK: Duration = Duration::from_millis(50);

struct Scene {
    simulator: Sim,
    manager: SmPartitionManager<String>,
    kernel: Kernel,
    folder: PathBuf,
}

impl Scene {
    fn new(name: &str, profile: &str) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("cuda-green-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let simulator = Sim::new(profile)?;
        simulator.register_kernel_cost(kernels::BURN, |_| BlockCost::idle(WORK));
        let device = Driver::simulated(&simulator)?.device(0)?;
        let plan = SharedPlan::of([
            ("a", PartitionRequest::at_least(64)),
            ("b", PartitionRequest::rest()),
        ])
        .in_folder(&folder);
        let policy = ContextPolicy::default();
        Ok(Self {
            manager: SmPartitionManager::join(&device, &plan, &[("a", policy), ("b", policy)])?,
            kernel: Module::load_ptx(&device, kernels::PTX)?.kernel(kernels::BURN)?,
            simulator,
            folder,
        })
    }

    fn work(&self, stream: &Stream) -> Result<()> {
        // SAFETY: a simulated kernel without a body touches nothing.
        unsafe { stream.launch(&self.kernel, &LaunchConfig::linear(1, 32), &[&0u64, &0u32]) }
    }

    fn set(&self, sms: u32) -> Result<()> {
        let change = self.manager.set_shares(&[("a", SmRequest::AtLeast(sms))])?;
        assert!(change.behind.is_empty());
        Ok(())
    }

    fn sizes(&self) -> [u32; 2] {
        ["a", "b"].map(|name| self.manager.get_context(name).unwrap().sm_count())
    }

    /// Ensures that a change is refused since this is in the way of it.
    fn refused(&self, reason: NotLeftReason) {
        match self.set(8) {
            Err(Error::Sharing(SharingError::NotLeft { holders })) => {
                let [
                    NotLeft {
                        name,
                        reason: said,
                        pid,
                        ..
                    },
                ] = &holders[..]
                else {
                    panic!("{holders:?}");
                };
                assert_eq!((name.as_str(), said), ("a", &reason));
                assert_eq!(*pid, Some(std::process::id()));
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn work_is_over_before_its_sms_change_hands() -> Result<()> {
    let scene = Scene::new("work", "h200@13.0")?;
    let stream = scene.manager.create_stream("a")?;
    for sms in [32, 96, 16] {
        stream.with(|stream| scene.work(stream))?;
        let before = scene.simulator.now();
        scene.set(sms)?;
        // Where it only gets SMs, nothing is waited for but what is destroyed.
        assert!(scene.simulator.now() - before >= WORK / 2);
        assert_eq!(scene.sizes(), [sms, 132 - sms]);
        let context = stream.with(|stream| Ok(stream.context().sm_count()))?;
        assert_eq!(context, sms);
    }
    Ok(())
}

#[test]
fn whatever_splits_merge_can_change_and_others_say_so() -> Result<()> {
    for profile in [
        "h200@12.8",
        "h200@13.1",
        "b200@13.1",
        "rtx5090@13.1",
        "a100@12.8",
    ] {
        let scene = Scene::new(&format!("profile-{profile}"), profile)?;
        let all: u32 = scene.sizes().iter().sum();
        scene.set(72)?;
        let [a, b] = scene.sizes();
        assert!((72..88).contains(&a) && a + b == all, "{profile} {a} {b}");
        let found = scene.manager.verify()?;
        assert!(found.overlaps.is_empty(), "{profile} {found}");
    }
    let scene = Scene::new("fixed", "h200@12.4")?;
    let refused = scene.set(72);
    assert!(matches!(
        refused,
        Err(Error::Sharing(SharingError::FixedShares))
    ));
    Ok(())
}

#[test]
fn captures_and_closures_are_in_the_way_and_said_to_be() -> Result<()> {
    let scene = Scene::new("capture", "h200@13.0")?;
    let handle = scene.manager.get_context("a")?.create_stream()?;
    handle.capture(CaptureMode::Relaxed, |_| {
        thread::scope(|scope| {
            scope
                .spawn(|| scene.refused(NotLeftReason::InCapture))
                .join()
                .unwrap();
        });
        Ok(())
    })?;
    scene.refused(NotLeftReason::InUse); // the stream
    drop(handle);
    let stream = scene.manager.create_stream("a")?;
    stream.with(|_| {
        thread::scope(|scope| {
            scope
                .spawn(|| scene.refused(NotLeftReason::InUse))
                .join()
                .unwrap();
        });
        // It would wait for itself.
        assert!(matches!(scene.set(8), Err(Error::InsidePartitionStream)));
        Ok(())
    })?;
    scene.set(8)?;
    assert_eq!(scene.sizes(), [8, 124]);
    Ok(())
}

#[test]
fn a_thread_that_has_the_context_current_is_in_the_way() -> Result<()> {
    let scene = Scene::new("current", "h200@13.0")?;
    let guard = scene.manager.activate("a")?;
    scene.refused(NotLeftReason::InUse);
    guard.close()?;
    scene.set(8)?;
    // The siblings for threads come along.
    let guard = scene.manager.activate("a")?;
    guard.close()
}

#[test]
fn who_joined_nothing_changes_nothing() {
    let device = Driver::open(&"sim:h200@13.0".parse().unwrap()).unwrap();
    let manager = SmPartitionManager::<String>::with_ids(&device.device(0).unwrap()).unwrap();
    let refused = manager.set_shares(&[("a", SmRequest::Rest)]);
    assert!(matches!(
        refused,
        Err(Error::Sharing(SharingError::NotJoined))
    ));
}
