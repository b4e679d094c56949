//! Several devices of one simulated driver, each partitioned by a manager of its own.

use std::{collections::BTreeSet, time::Duration};

use cuda_green::{
    ContextId, Driver, Error, Event, GpuMemoryPool, Result, SmPartitionManager, sim::Sim,
};

/// A library that is opened twice, by two parts of a program, is one driver: its devices are the same, what is made
/// through one handle works with what is made through the other, and who splits a device has split it for both.
#[test]
fn a_driver_that_is_opened_twice_is_one() -> Result<()> {
    let simulator = Sim::new("2xh200@13.0")?;
    let _nothing_is_left = simulator.leak_guard();
    let (one, other) = (
        Driver::simulated(&simulator)?,
        Driver::simulated(&simulator)?,
    );
    assert_eq!(one, other);
    let (here, there) = (one.device(0)?, other.device(0)?);
    assert_eq!(here, there);
    let manager = SmPartitionManager::on(&here)?;
    manager.init_quad_partition()?;
    let refused = SmPartitionManager::on(&there)?.init_quad_partition();
    assert!(matches!(
        refused,
        Err(Error::PartitionedElsewhere { device: 0 })
    ));
    SmPartitionManager::on(&other.device(1)?)?.init_quad_partition()?;

    let stream = manager.get_context(ContextId::Dream)?.create_stream()?;
    let mut buffer = GpuMemoryPool::on(&there, 1 << 20)?.allocate(1024)?;
    buffer.fill_on(7, &stream)?;
    let event = Event::new(&there)?;
    stream.record(&event)?;
    event.synchronize()?;
    let mut bytes = [0; 1024];
    buffer.copy_to(&mut bytes)?;
    assert_eq!(bytes, [7; 1024]);
    Ok(())
}

#[test]
fn each_device_has_its_own_partitions() -> Result<()> {
    let driver = Driver::open(&"sim:2xh200@13.0".parse()?)?;
    assert!(driver.is_simulated());
    assert_eq!(driver.device_count()?, 2);
    let devices = [driver.device(0)?, driver.device(1)?];
    assert_eq!(devices[0], driver.device(0)?);
    assert_ne!(devices[0], devices[1]);
    let elsewhere = Driver::open(&"sim:2xh200@13.0".parse()?)?;
    assert_ne!(driver, elsewhere);
    assert_ne!(devices[0], elsewhere.device(0)?);
    let managers = [
        SmPartitionManager::on(&devices[0])?,
        SmPartitionManager::on(&devices[1])?,
    ];
    for manager in &managers {
        manager.init_quad_partition()?;
        let status = manager.allocation_status();
        assert!(status.simulated && status.to_string().starts_with("SIMULATED: "));
        assert_eq!(status.allocated_sms, 132);
        let ids: BTreeSet<u32> = ContextId::ALL
            .iter()
            .map(|id| manager.get_context(*id)?.observed_sm_ids())
            .collect::<Result<Vec<_>>>()?
            .concat()
            .into_iter()
            .collect();
        assert_eq!(ids.len(), 132);
    }
    // A graph of one device does not run on the other.
    let streams = [0, 1].map(|index: usize| -> Result<_> {
        managers[index]
            .get_context(ContextId::Dream)?
            .create_stream()
    });
    let [here, there] = streams;
    let (here, there) = (here?, there?);
    let graph = here.capture(cuda_green::CaptureMode::default(), |_| Ok(()))?;
    let exec = graph.instantiate()?;
    // SAFETY: the graph is empty.
    let refused = unsafe { exec.launch(&there) };
    assert!(
        matches!(
            refused,
            Err(Error::ForeignDevice {
                device: 1,
                expected: 0,
                ..
            })
        ),
        "{refused:?}"
    );
    // Their streams may wait for each other all the same: the driver is one.
    let event = Event::new(&devices[0])?;
    here.record(&event)?;
    there.wait(&event)?;
    there.synchronize()?;
    assert!(matches!(
        driver.device(2),
        Err(Error::NoSuchDevice { asked: 2, count: 2 })
    ));
    Ok(())
}

/// The device that disappears takes its own partitions along, and nobody else's.
#[test]
fn a_lost_device_leaves_the_other() -> Result<()> {
    let simulator = Sim::new("2xh200@13.0")?;
    let driver = Driver::simulated(&simulator)?;
    let managers = [
        SmPartitionManager::on(&driver.device(0)?)?,
        SmPartitionManager::on(&driver.device(1)?)?,
    ];
    for manager in &managers {
        manager.init_quad_partition()?;
    }
    simulator.inject("device1=lost".parse()?);
    let lost = managers[1].get_context(ContextId::Dream)?.create_stream();
    assert!(lost.is_err());
    simulator.assert_injections_fired();
    managers[0]
        .get_context(ContextId::Dream)?
        .create_stream()?
        .synchronize()?;
    drop(managers);
    drop(driver);
    simulator.assert_no_leaks();
    Ok(())
}

/// Things of two devices meet nowhere but where CUDA lets them: a stream may wait for any event.
#[test]
fn things_of_two_devices_are_told() -> Result<()> {
    let driver = Driver::open(&"sim:2xh200@13.0".parse()?)?;
    let (here, there) = (driver.device(0)?, driver.device(1)?);
    let managers = [
        SmPartitionManager::on(&here)?,
        SmPartitionManager::on(&there)?,
    ];
    for manager in &managers {
        manager.init_quad_partition()?;
    }
    let context = managers[0].get_context(ContextId::Dream)?;
    let (own, foreign) = (Event::timed(&here)?, Event::timed(&there)?);
    let foreign_stream = managers[1].get_context(ContextId::Dream)?.create_stream()?;
    let stream = context.create_stream()?;
    let of_device_1 = |result: Result<()>| {
        assert!(
            matches!(
                result,
                Err(Error::ForeignDevice {
                    device: 1,
                    expected: 0,
                    ..
                })
            ),
            "{result:?}"
        );
    };
    of_device_1(stream.record(&foreign));
    of_device_1(context.record_event(&foreign));
    of_device_1(own.elapsed_since(&foreign).map(drop));
    let pool = GpuMemoryPool::on(&here, 1 << 20)?;
    of_device_1(pool.allocate_on(&foreign_stream, 1).map(drop));
    foreign_stream.record(&foreign)?;
    stream.wait(&foreign)?;
    context.wait_event(&foreign)?;
    let text = stream.record(&foreign).unwrap_err().to_string();
    assert_eq!(
        text,
        "the event belongs to device 1, but was used with an object of device 0"
    );
    stream.synchronize()
}

/// Events that have no time to tell say why.
#[test]
fn events_without_a_time_say_why() -> Result<()> {
    let device = Driver::open(&"sim:h200@13.0".parse()?)?.device(0)?;
    let manager = SmPartitionManager::on(&device)?;
    manager.init_quad_partition()?;
    let stream = manager.get_context(ContextId::Dream)?.create_stream()?;
    let (timed, other, plain) = (
        Event::timed(&device)?,
        Event::timed(&device)?,
        Event::new(&device)?,
    );
    let reason = |result: Result<Duration>| match result {
        Err(Error::InvalidArgument { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(timed.elapsed_since(&plain)).contains("Event::timed"));
    assert_eq!(reason(timed.elapsed_since(&other)), "it was never recorded");
    for event in [&timed, &other, &plain] {
        stream.record(event)?;
    }
    stream.synchronize()?;
    assert!(reason(plain.elapsed_since(&timed)).contains("Event::timed"));
    other.elapsed_since(&timed)?;
    Ok(())
}
