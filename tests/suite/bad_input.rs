//! What cannot be done is refused with a typed error that says what was asked and what there is, and
//! nothing is left half made.

use cuda_green::{
    CaptureMode, ContextId, ContextPriority, Driver, DriverSpec, Error, Event, GpuMemoryPool,
    GreenContextConfig, LaunchConfig, Result, SmPartitionManager, sys,
};

use crate::{
    Case,
    support::{config, kernel, quad},
};

pub const CASES: &[Case] = &[
    ("bad_input/a_device_that_does_not_exist", no_such_device),
    ("bad_input/sizes_that_cannot_be", sizes),
    ("bad_input/configurations_that_contradict", contradictions),
    ("bad_input/ids_twice_or_never_made", ids),
    ("bad_input/a_second_quad", second_quad),
    ("bad_input/what_the_driver_lacks", lacking),
    ("bad_input/drivers_that_are_none", no_drivers),
    ("bad_input/things_of_another_driver", another_driver),
];

fn no_such_device(driver: &Driver) -> Result<()> {
    let count = driver.device_count()?;
    for asked in [count, 99, u32::MAX] {
        let error = driver.device(asked).unwrap_err();
        assert!(
            matches!(error, Error::NoSuchDevice { asked: said, count: of } if (said, of) == (asked, count))
        );
        assert!(error.to_string().contains(&asked.to_string()));
    }
    Ok(())
}

fn sizes(driver: &Driver) -> Result<()> {
    let device = driver.device(0)?;
    let manager = SmPartitionManager::on(&device)?;
    let before = manager.allocation_status();
    let error = manager
        .create_context(ContextId::Dream, config(0))
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidArgument {
                name: "sm_count",
                ..
            }
        ),
        "{error}"
    );
    for asked in [before.total_sms + 1, u32::MAX] {
        let error = manager
            .create_context(ContextId::Dream, config(asked))
            .unwrap_err();
        let Error::InsufficientSms {
            asked: said,
            available,
            total,
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (said, available, total),
            (asked, before.total_sms, before.total_sms)
        );
    }
    assert_eq!(manager.allocation_status(), before);
    let no_memory = GpuMemoryPool::on(&device, 0);
    assert!(matches!(
        no_memory,
        Err(Error::InvalidArgument {
            name: "limit_bytes",
            ..
        })
    ));
    Ok(())
}

fn contradictions(driver: &Driver) -> Result<()> {
    let manager = SmPartitionManager::on(&driver.device(0)?)?;
    let preemptible = GreenContextConfig {
        priority: ContextPriority::Critical,
        preemptible: true,
        ..config(8)
    };
    let error = manager
        .create_context(ContextId::Dream, preemptible)
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidArgument {
                name: "preemptible",
                ..
            }
        ),
        "{error}"
    );
    let no_memory = GreenContextConfig {
        memory_limit_bytes: 0,
        ..config(8)
    };
    let error = manager
        .create_context(ContextId::Dream, no_memory)
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidArgument {
                name: "memory_limit_bytes",
                ..
            }
        ),
        "{error}"
    );
    assert!(manager.allocation_status().contexts.is_empty());
    Ok(())
}

fn ids(driver: &Driver) -> Result<()> {
    let manager = SmPartitionManager::on(&driver.device(0)?)?;
    for result in [
        manager.get_context(ContextId::Dream).map(drop),
        manager.activate(ContextId::Dream).map(drop),
        manager.set_current(ContextId::Dream),
        manager.destroy_context(ContextId::Dream),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::NoSuchContext { .. }));
        assert_eq!(error.to_string(), "there is no context Dream");
    }
    drop(manager.create_context(ContextId::Dream, config(8))?);
    let before = manager.allocation_status();
    let error = manager
        .create_context(ContextId::Dream, config(8))
        .unwrap_err();
    assert!(matches!(error, Error::ContextExists { .. }), "{error}");
    assert_eq!(manager.allocation_status(), before);
    Ok(())
}

fn second_quad(driver: &Driver) -> Result<()> {
    let (_, manager) = quad(driver)?;
    let before = manager.allocation_status();
    assert!(matches!(
        manager.init_quad_partition(),
        Err(Error::AlreadyPartitioned { contexts: 4 })
    ));
    assert_eq!(manager.allocation_status(), before);
    Ok(())
}

/// A driver without green contexts says which version has them, and what works instead.
fn lacking(driver: &Driver) -> Result<()> {
    if crate::support::is_partitioned(driver) {
        return Ok(());
    }
    let (device, manager) = quad(driver)?;
    assert!(!device.supports_required_features());
    let Err(Error::MissingEntryPoint(missing)) = device.sm_resource() else {
        panic!("it has no SM resources");
    };
    assert_eq!(missing.entry_point.name(), "cuDeviceGetDevResource");
    assert!(
        missing.to_string().contains("12.4") && missing.to_string().contains("11.4"),
        "{missing}"
    );
    let context = manager.get_context(ContextId::Dream)?;
    let event = Event::new(&device)?;
    for result in [context.record_event(&event), context.wait_event(&event)] {
        assert!(matches!(result, Err(Error::NotPartitioned { .. })));
    }
    Ok(())
}

fn no_drivers(_: &Driver) -> Result<()> {
    let open = |spec: &str| Driver::open(&spec.parse::<DriverSpec>().unwrap()).unwrap_err();
    assert!(matches!(open("sim:no-such-gpu@13.0"), Error::Simulator(_)));
    assert!(matches!(open("sim:h200@10.0"), Error::Simulator(_)));
    assert!(matches!(
        open("/etc/passwd"),
        Error::Load(sys::Error::DriverUnloadable { .. })
    ));
    assert!(matches!(
        open("/no/such/file"),
        Error::Load(sys::Error::DriverUnloadable { .. })
    ));
    assert!("".parse::<DriverSpec>().is_err());
    Ok(())
}

/// A driver may follow a handle of another one as a pointer, so it is never given one.
fn another_driver(driver: &Driver) -> Result<()> {
    let other = Driver::open(&"sim:h200@13.0".parse()?)?;
    let ((device, manager), (their_device, their_manager)) = (quad(driver)?, quad(&other)?);
    let id = ContextId::Training;
    let (context, their_context) = (manager.get_context(id)?, their_manager.get_context(id)?);
    let (stream, theirs) = (context.create_stream()?, their_context.create_stream()?);
    let following = manager.create_stream(id)?;
    let (event, their_event) = (Event::timed(&device)?, Event::timed(&their_device)?);
    stream.record(&event)?;
    theirs.record(&their_event)?;
    let their_kernel = kernel(&their_device, "cuda_green_burn")?;
    let once = LaunchConfig::linear(1, 1);
    for refused in [
        stream.record(&their_event),
        stream.wait(&their_event),
        theirs.wait(&event),
        following.record(&their_event),
        following.wait(&their_event),
        their_context.record_event(&event),
        their_context.wait_event(&event),
        event.elapsed_since(&their_event).map(drop),
        their_event.elapsed_since(&event).map(drop),
        // SAFETY: it is refused before the arguments count.
        unsafe { stream.launch(&their_kernel, &once, &[]) },
        // SAFETY: as above.
        unsafe { following.launch(&their_kernel, &once, &[]) },
    ] {
        assert!(matches!(refused, Err(Error::ForeignDriver)), "{refused:?}");
    }
    if context.is_partitioned() {
        for refused in [
            context.record_event(&their_event),
            context.wait_event(&their_event),
        ] {
            assert!(matches!(refused, Err(Error::ForeignDriver)), "{refused:?}");
        }
    }
    // A capture is none the worse for it.
    let graph = stream.capture(CaptureMode::default(), |capture| {
        // SAFETY: as above.
        let launched = unsafe { capture.launch(&their_kernel, &once, &[]) };
        for refused in [launched, capture.fork(&theirs), capture.join(&theirs)] {
            assert!(matches!(refused, Err(Error::ForeignDriver)), "{refused:?}");
        }
        Ok(())
    })?;
    // SAFETY: the graph is empty.
    unsafe { graph.instantiate()?.launch(&stream)? };
    stream.record(&event)?;
    stream.wait(&event)?;
    stream.synchronize()
}
