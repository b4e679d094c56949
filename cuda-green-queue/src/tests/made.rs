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
    for (builder, name, what) in [
        (builder().depth(4), "depth 4", "from 8"),
        (builder().lanes(0), "lanes 0", "from 1"),
        (builder().segment_bytes(8192), "8192", "would fit"),
        (builder().cpu_depth(3), "cpu_depth 3", "from 8"),
        (
            builder().cpu_depth(u32::MAX),
            "cpu_depth 4294967295",
            "to 1048576",
        ),
        (builder().job_capacity(0), "job_capacity 0", "from 1"),
        (
            builder().job_capacity(u32::MAX),
            "job_capacity",
            "to 1048576",
        ),
        (builder().polling_threads(0), "polling_threads 0", "from 1"),
        (builder().workers(0), "workers 0", "from 1"),
        (builder().workers(usize::MAX), "workers", "to 1024"),
    ] {
        let error = builder.build_for(&[]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(what), "{error}");
    }
}

/// So many copies of a large task that their memory would be of no sense.
#[test]
fn copies_that_need_too_much_memory_are_refused() {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Large([[u64; 32]; 32]);
    impl Task for Large {
        const METHOD: u16 = 9;
        type Output = u64;
    }
    let large = || {
        TaskQueueBuilder::default()
            .handler(|_: Large| Ok(1))
            .payload_bytes(8192)
            .depth(8)
    };
    for (builder, name) in [
        (large().job_capacity(1 << 20), "job_capacity"),
        (large().cpu_depth(1 << 20), "cpu_depth"),
    ] {
        let error = builder.build_for(&[]).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("would fit"),
            "{error}"
        );
    }
    assert!(large().job_capacity(64).cpu_depth(8).build_for(&[]).is_ok());
}

#[test]
fn an_error_is_printed_as_its_text() {
    let error = builder().workers(0).build_for(&[]).unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
}
