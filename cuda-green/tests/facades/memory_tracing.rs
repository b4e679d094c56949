//! Events of pools and slots for the `tracing` facade.

use cuda_green::sim::Sim;

use crate::{
    alone,
    models::{needs, slots},
    subscriber::Subscriber,
};

#[test]
fn the_tracing_facade_hears_what_happens() {
    let _alone = alone();
    let simulator = Sim::new("h200@13.0").unwrap();
    let subscriber = Subscriber::new("cuda_green::memory", || {});
    tracing::subscriber::with_default(subscriber.clone(), || {
        let slots = slots(&simulator);
        assert!(slots.pool().allocate(100 << 20).is_err());
        let failed = slots.get_or_load("broken", needs(10), |_| {
            Err(cuda_green::Error::ForeignBuffer)
        });
        assert!(failed.is_err());
        slots.evict("second").unwrap();
    });
    let heard = subscriber.heard();
    let expected = [
        "DEBUG message=took memory from the driver bytes=1048576 from_driver=1048576",
        "INFO message=loaded a model model=\"first\" bytes=62914560",
        "INFO message=evicted a model model=\"first\" bytes=62914560",
        "INFO message=loaded a model model=\"second\" bytes=62914560",
        "WARN message=refused memory asked=104857600 available=41943040 limit=104857600",
        "WARN message=a model did not load model=\"broken\" bytes=10485760",
        "INFO message=evicted a model model=\"second\" bytes=62914560",
        "DEBUG message=gave memory back to the driver bytes=1048576 from_driver=0",
    ];
    assert_eq!(heard, expected);
}
