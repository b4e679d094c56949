//! Tasks from a kernel to a resident kernel of another partition: what was begun is answered, and all else is closed.

use bytemuck::Zeroable;
use cuda_green_queue::{DeviceQueue, KernelQueue};

use super::*;

/// Blocks of the resident kernel, and lanes.
const LANES: u32 = 4;

pub fn shut_down(driver: &Driver) -> Result<()> {
    until_closed(driver, false)
}

pub fn dropped(driver: &Driver) -> Result<()> {
    until_closed(driver, true)
}

/// As many warps as the partition can hold, and more, ask a resident kernel until the queue ends, which it does while all
/// of them wait.
fn until_closed(driver: &Driver, is_dropped: bool) -> Result<()> {
    let Some(ready) = Ready::new(driver)? else {
        return Ok(());
    };
    let other = ready.manager.get_context(ContextId::Embedding)?;
    let resident = other.create_stream()?;
    let (serve, ask) = (
        ready.kernel("suite_serve")?,
        ready.kernel("suite_until_closed")?,
    );
    let queue = KernelQueue::builder()
        .lanes(LANES)
        .segment_bytes(4 << 20)
        .build(&ready.device)
        .unwrap();
    let (served, words) = (ready.words()?, ready.words()?);
    let (taker, asker) = (served.address(), words.address());
    let sms = ready.device.properties().multiprocessor_count;
    let warps = times(driver, 4, sms as usize * 64) as u32;
    let config = LaunchConfig::linear(warps.div_ceil(4), 128);
    let no_queue = DeviceQueue::zeroed();
    // SAFETY: the arguments are those of the kernels in `queue.cu`, whose ends are waited for while their memory lives.
    unsafe {
        // A kernel's first launch may wait until no other runs: this one is refused by the header, and ends.
        ready.stream.launch(&ask, &config, &[&no_queue, &asker])?;
        ready.end(&ready.stream)?;
        words.copy_from(&[0; WORDS])?;
        let blocks = LaunchConfig::linear(LANES, 64);
        let inbox = queue.device_inbox();
        queue
            .launch(&resident, &serve, &blocks, &[&inbox, &taker])
            .unwrap();
        let argument = queue.device_queue();
        ready.stream.launch(&ask, &config, &[&argument, &asker])?;
        queue.fence_on(&ready.stream).unwrap();
    }
    until("the first answers", || {
        assert!(!ready.stream.is_done()?, "the kernel ended by itself");
        Ok(read(&served)?.iter().sum::<u64>() >= u64::from(warps))
    })?;
    match is_dropped {
        true => drop(queue),
        false => queue.shutdown().unwrap(),
    }
    ready.end(&ready.stream)?;
    ready.end(&resident)?;
    let [answered, _, ended, otherwise, ..] = read(&words)?;
    assert_eq!((ended, otherwise), (u64::from(warps), 0));
    assert_eq!(answered, read(&served)?.iter().sum::<u64>());
    Ok(())
}
