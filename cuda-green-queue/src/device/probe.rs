//! The layout as the header has to have it, in a file that compilers of the header compile too.

use std::{
    fmt::Write,
    mem::{align_of, offset_of, size_of},
    path::Path,
};

use crate::layout::{self, DeviceInbox, DeviceQueue, InboxPosition, RingState, status};

/// Asserts of a type's size and alignment, and of the places of its fields, by the names that it and they have in the
/// header.
macro_rules! type_of {
    ($text:ident, $rust:ident as $header:literal: $($field:ident)*) => {
        let (size, align) = (size_of::<$rust>(), align_of::<$rust>());
        writeln!($text, "static_assert(sizeof({}) == {size} && alignof({0}) == {align});", $header)?;
        $(
            let offset = offset_of!($rust, $field);
            writeln!($text, "static_assert(OFFSET({}, {}) == {offset});", $header, stringify!($field))?;
        )*
    };
}

const START: &str = r#"// Made by the tests of cuda-green-queue from the types of layout.rs; a run of them with BLESS=1 writes it anew.
// The check of the compiled kernels compiles it with the header.
#include "cuda_green_queue.cuh"
using namespace cuda_green;
#ifdef __CUDACC_RTC__
// NVRTC has no offsetof.
#define OFFSET(type, field) __INTADDR__(&((type*)0)->field)
#else
#define OFFSET(type, field) __builtin_offsetof(type, field)
#endif
"#;

fn probe() -> Result<String, std::fmt::Error> {
    let mut text = START.to_owned();
    type_of!(text, DeviceQueue as "Queue": magic slots tails answers rings futures version future_count lanes
        priorities depth_log2 slot_log2 answer_log2 flags);
    type_of!(text, DeviceInbox as "Inbox": magic slots tails answers controls positions version future_count lanes
        priorities depth_log2 slot_log2 answer_log2 flags);
    type_of!(text, RingState as "RingState": credits head seen_tail refilling refused);
    type_of!(text, InboxPosition as "InboxPosition": position);
    for (name, value) in [
        ("QUEUE_MAGIC", layout::MAGIC),
        ("INBOX_MAGIC", layout::INBOX_MAGIC),
        ("VERSION", layout::VERSION.into()),
        ("LINE", layout::LINE),
        ("SLOT_HEADER", layout::SLOT_HEADER),
        ("ANSWER_HEADER", layout::ANSWER_HEADER),
        ("INBOX_HEADER_WORDS", layout::INBOX_HEADER_WORDS.into()),
        ("NO_FUTURE", layout::NO_FUTURE.into()),
        ("CLOSED", layout::CLOSED),
        ("KERNEL_TO_KERNEL", layout::KERNEL_TO_KERNEL.into()),
        ("LEAVE", layout::LEAVE),
        ("FINISH", layout::FINISH),
        ("RUNNING", layout::RUNNING),
        ("MAX_PRIORITIES", layout::MAX_PRIORITIES.into()),
        ("MAX_PAYLOAD", layout::MAX_PAYLOAD.into()),
        ("MAX_OUTPUT", layout::MAX_OUTPUT.into()),
        ("u32(Status::Done)", status::DONE.into()),
        ("u32(Status::Failed)", status::FAILED.into()),
        ("u32(Status::Panicked)", status::PANICKED.into()),
        ("u32(Status::UnknownMethod)", status::UNKNOWN_METHOD.into()),
        ("u32(Status::BadPayload)", status::BAD_PAYLOAD.into()),
        ("u32(Status::Closed)", status::CLOSED.into()),
    ] {
        writeln!(text, "static_assert({name} == {value:#x});")?;
    }
    Ok(text)
}

#[test]
fn the_probe_is_of_this_layout() {
    let probe = probe().unwrap();
    if std::env::var_os("BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/device/layout_probe.cu");
        std::fs::write(path, &probe).unwrap();
        return;
    }
    let committed = include_str!("layout_probe.cu");
    assert!(
        committed == probe,
        "layout_probe.cu is of another layout; BLESS=1 writes it anew"
    );
}
