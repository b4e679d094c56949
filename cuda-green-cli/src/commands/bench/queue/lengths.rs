//! What is measured, for how long.

use std::time::Duration;

use super::figures::{By, Shape, What};

/// The numbers of warps that submit at once.
const WARPS: [u32; 6] = [1, 8, 32, 132, 528, 2_112];

/// The extent of a run.
pub struct Lengths {
    pub repeats: usize,
    /// The most warps of a kernel.
    most_warps: u32,
    /// Tasks one way, of one warp's lanes at once, and round trips of few and of many warps.
    one_way: u64,
    warp_wide: u64,
    trips: u64,
    /// Times that something is done in a pause.
    pub pauses: usize,
    pub pause_ms: u64,
    pub watched_ms: u64,
    /// Tasks of the CPU.
    pub host_tasks: u64,
    /// Requests beside tasks of another partition.
    pub requests: usize,
    pub request_time: Duration,
}

impl Lengths {
    pub fn real() -> Self {
        Self {
            repeats: 3,
            most_warps: 2_112,
            one_way: 4_000_000,
            warp_wide: 16_000_000,
            trips: 20_000,
            pauses: 50,
            pause_ms: 100,
            watched_ms: 2_000,
            host_tasks: 200_000,
            requests: 2_000,
            request_time: Duration::from_secs(5),
        }
    }

    /// Returns those of a run that only shows that it works.
    pub fn quick() -> Self {
        Self {
            repeats: 1,
            most_warps: 8,
            one_way: 320,
            warp_wide: 320,
            trips: 64,
            pauses: 2,
            pause_ms: 5,
            watched_ms: 20,
            host_tasks: 200,
            requests: 4,
            request_time: Duration::from_secs(1),
        }
    }

    /// Returns everything that is measured by the number of warps, in the order of the table.
    pub fn shapes(&self) -> Vec<Shape> {
        let mut shapes = Vec::new();
        let mut add = |what, by, lanes, warps, polling_threads| {
            if warps <= self.most_warps {
                shapes.push(Shape {
                    what,
                    by,
                    lanes,
                    warps,
                    polling_threads,
                });
            }
        };
        use By::{Queue, Raw};
        add(What::PingPong, Raw, 1, 1, 1);
        add(What::Inline, Queue, 1, 1, 1);
        add(What::Inline, Raw, 1, 1, 1);
        add(What::Pooled, Queue, 1, 1, 1);
        for by in [Queue, Raw] {
            for warps in WARPS {
                add(What::OneWay, by, 1, warps, 1);
            }
        }
        for (by, threads) in [(Queue, 1), (Queue, 4), (Raw, 4)] {
            for warps in WARPS {
                add(What::OneWay, by, 4, warps, threads);
            }
        }
        for (by, threads) in [(Queue, 1), (Queue, 4), (Raw, 4)] {
            for warps in [8, 32, 132, 528] {
                add(What::WarpWide, by, 4, warps, threads);
            }
        }
        for (by, threads) in [(Queue, 1), (Queue, 4), (Raw, 4)] {
            for warps in [8, 32, 528, 2_112] {
                add(What::RoundTrip, by, 4, warps, threads);
            }
        }
        add(What::HostPingPong, Raw, 1, 1, 0);
        add(What::Resident, Queue, 1, 1, 0);
        add(What::Launch, Raw, 1, 1, 0);
        add(What::KernelToKernel, Queue, 1, 1, 0);
        shapes
    }

    /// Returns how many tasks each warp submits. A warp-wide submission is of 32.
    pub fn each(&self, shape: &Shape) -> u64 {
        let all = match (shape.what, shape.by, shape.warps) {
            // Of those with compare-and-swap, as many as the slowest does in about a second.
            (What::OneWay, By::Raw, 2_112..) => self.one_way / 20,
            (What::OneWay, By::Raw, _) => self.one_way / 4,
            (What::OneWay, By::Queue, 1) => self.one_way / 4,
            (What::OneWay, By::Queue, _) => self.one_way,
            (What::WarpWide, ..) => self.warp_wide,
            (What::RoundTrip, ..) => self.trips * 10,
            _ => self.trips,
        };
        let each = (all / u64::from(shape.warps.max(1))).max(1);
        match shape.what {
            What::WarpWide => each.next_multiple_of(32),
            _ => each,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_measured_once_and_the_goals_have_theirs() {
        let shapes = Lengths::real().shapes();
        for (index, shape) in shapes.iter().enumerate() {
            assert!(!shapes[..index].contains(shape), "{shape:?}");
        }
        let fair = Shape {
            what: What::RoundTrip,
            by: By::Queue,
            lanes: 4,
            warps: 528,
            polling_threads: 1,
        };
        assert!(shapes.contains(&fair));
        assert!(Lengths::quick().shapes().len() > 20);
    }

    #[test]
    fn a_warp_submits_at_least_one_task_and_whole_warps_of_them() {
        for lengths in [Lengths::real(), Lengths::quick()] {
            for shape in lengths.shapes() {
                let each = lengths.each(&shape);
                assert!(each > 0);
                assert!(shape.what != What::WarpWide || each % 32 == 0);
            }
        }
    }
}
