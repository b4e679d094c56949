//! What queues can be made of: handlers and numbers.

use super::*;
use crate::{Error, Task, TaskQueueBuilder};

macro_rules! task {
    ($name:ident, $method:expr, $output:ty, $($layout:tt)*) => {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C $($layout)*)]
        struct $name([u8; 64]);
        impl Task for $name {
            const METHOD: u16 = $method;
            type Output = $output;
        }
    };
}
task!(Plain, 1, u32,);
task!(Same, 1, u32,);
task!(Aligned, 2, u32, , align(32));
task!(Reserved, 0xFFFF, u32,);
task!(Long, 4, [u64; 8],);

fn refusal(builder: TaskQueueBuilder) -> String {
    let error = builder.build_for(&[]).unwrap_err();
    assert!(matches!(error, Error::InvalidHandler { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn handlers_that_cannot_be_are_refused() {
    let new = TaskQueueBuilder::default;
    let plain = || new().handler(|_: Plain| Ok(1));
    assert!(plain().build_for(&[]).is_ok());
    for (builder, reason) in [
        (plain().handler(|_: Same| Ok(1)), "already has a handler"),
        (plain().handler(|_: Plain| Ok(1)), "already has a handler"),
        (
            new()
                .host_handler(|Name(n)| Ok(n))
                .host_handler(|Name(n)| Ok(n)),
            "already has",
        ),
        (new().handler(|_: Aligned| Ok(1)), "aligned to 32"),
        (new().handler(|_: Reserved| Ok(1)), "reserved"),
        (new().handler(|_: Long| Ok([0; 8])), "output_bytes"),
        (plain().payload_bytes(16), "payload_bytes"),
    ] {
        let refusal = refusal(builder);
        assert!(refusal.contains(reason), "{refusal}");
    }
    // The room is that of the slots, which is rounded up.
    assert!(
        new()
            .handler(|_: Long| Ok([0; 8]))
            .output_bytes(64)
            .build_for(&[])
            .is_ok()
    );
    assert!(plain().payload_bytes(60).build_for(&[]).is_ok());
}

#[test]
fn numbers_that_cannot_be_say_what_would_fit() {
    for (builder, what) in [
        (builder().depth(4), "from 8"),
        (builder().lanes(0), "from 1"),
        (builder().segment_bytes(8192), "would fit"),
        (builder().cpu_depth(3), "from 8"),
    ] {
        let error = builder.build_for(&[]).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn threads_that_cannot_be_are_corrected() {
    let queues = builder().workers(0).job_capacity(0).build_for(&[]).unwrap();
    assert_eq!(queues.submit(Double(2)).unwrap().wait(), Ok(4));
}
