//! A kernel that fills every SM of a context for a known time, and the measurement of how much longer it took.

use std::time::{Duration, Instant};

use cuda_green_sys::{CUdevice_attribute, CUfunction};

use crate::{
    error::{Error, Result},
    event::Event,
    kernels,
    launch::LaunchConfig,
    partition::GreenContext,
    stream::Stream,
};

/// Duration of the kernel before each round, during which the host queues the whole round. It is doubled if the host
/// was slower.
const LEAD: Duration = Duration::from_micros(50);
/// The longest duration of that kernel.
const LONGEST_LEAD: Duration = Duration::from_millis(50);

/// Everything needed to fill a context: a stream of it, three events, and the kernel with its dimensions. The kernel
/// writes nothing, so one that still runs when this is dropped does no harm.
pub(super) struct Filler {
    stream: Stream,
    lead: Event,
    start: Event,
    end: Event,
    function: CUfunction,
    blocks: u32,
    threads: u32,
}

impl Filler {
    /// Makes a filler of a context that runs on this number of SMs.
    pub(super) fn new(context: &GreenContext, sm_count: u32) -> Result<Self> {
        /// The largest number of threads of a block, on every device.
        const MAX_THREADS: u32 = 1024;
        let device = context.device();
        let threads_per_sm = device
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?;
        let threads_per_sm = u32::try_from(threads_per_sm)
            .unwrap_or_default()
            .max(MAX_THREADS);
        let blocks_per_sm = threads_per_sm.div_ceil(MAX_THREADS);
        Ok(Self {
            stream: context.create_stream()?,
            lead: Event::timed(device)?,
            start: Event::timed(device)?,
            end: Event::timed(device)?,
            function: device
                .kernels()?
                .function(device.driver(), kernels::SM_IDS)?,
            blocks: sm_count * blocks_per_sm,
            threads: threads_per_sm / blocks_per_sm,
        })
    }

    /// Fills the context once. Returns how much longer than `stay` that took, or how late it started if that is more.
    pub(super) fn round(&self, stay: Duration) -> Result<Duration> {
        let _allowed = self.stream.device().driver().beside_captures();
        let mut lead = LEAD;
        loop {
            let begun = Instant::now();
            self.record(&self.lead)?;
            self.spin(1, lead)?;
            let host_time = begun.elapsed();
            self.launch(stay)?;
            // If the start is not reached yet, everything was queued before it, so the times contain no host time.
            let queued_in_time = !self.start.is_done()?;
            self.end.synchronize()?;
            if queued_in_time || lead >= LONGEST_LEAD {
                // The first kernel may have started late too, but it was not queued beforehand, so the host's time to
                // launch it is subtracted.
                let lead_time = self.start.elapsed_since(&self.lead)?;
                let took_longer = self.end.elapsed_since(&self.start)?;
                return Ok(lead_time
                    .saturating_sub(lead + host_time)
                    .max(took_longer.saturating_sub(stay)));
            }
            lead *= 2;
        }
    }

    /// Launches the filling blocks between the events `start` and `end`.
    pub(super) fn launch(&self, stay: Duration) -> Result<()> {
        self.record(&self.start)?;
        self.spin(self.blocks, stay)?;
        self.record(&self.end)
    }

    /// Records an event in the filler's stream.
    pub(super) fn record(&self, event: &Event) -> Result<()> {
        self.stream.record(event)
    }

    /// Waits for the end.
    #[cfg(target_os = "linux")]
    pub(super) fn wait(&self) -> Result<()> {
        let _allowed = self.stream.device().driver().beside_captures();
        self.end.synchronize()
    }

    /// Waits for the end, and returns the times of start and end since an earlier event.
    pub(super) fn wait_since(&self, origin: &Event) -> Result<(Duration, Duration)> {
        let _allowed = self.stream.device().driver().beside_captures();
        self.end.synchronize()?;
        Ok((
            self.start.elapsed_since(origin)?,
            self.end.elapsed_since(origin)?,
        ))
    }

    /// Launches blocks that stay for a time.
    fn spin(&self, blocks: u32, stay: Duration) -> Result<()> {
        let stay = u32::try_from(stay.as_nanos()).map_err(|_| Error::InvalidArgument {
            name: "stay",
            value: format!("{stay:?}"),
            reason: "the blocks of a probe stay for at most four seconds",
        })?;
        let config = LaunchConfig::linear(blocks, self.threads);
        let (no_counters, none) = (0u64, 0u32);
        // SAFETY: the kernel takes a pointer to counters, their number, and a time; with no counters it
        // writes nothing. The function lives as long as the device, which the context holds.
        unsafe {
            self.stream
                .launch_raw(self.function, &config, &[&no_counters, &none, &stay])
        }
    }
}
