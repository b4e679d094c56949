//! The SMs that each partition was seen on: as a drawing of the chip, or as counts where ids mean nothing.

use cuda_green::{Verification, VerificationMethod};
use serde_json::{Value, json};

use super::{
    chip::{Chip, Partition},
    page::Page,
};

/// The reason why a map is impossible under MPS.
pub const IDS_UNDER_MPS: &str = "under MPS each context has its own numbers for SMs";

/// Partitions by name, each with the SMs that its blocks ran on.
pub struct Map {
    chip: Chip,
    /// Whether the ids of the SMs mean the same in every partition.
    by_ids: bool,
    is_isolated: bool,
}

impl Map {
    /// Names the partitions of a verification, whose ids are places in `names`, on a device of `total` SMs.
    pub fn new<'a>(
        total: u32,
        verified: &Verification<usize>,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Self {
        let names: Vec<&String> = names.into_iter().collect();
        let partitions = verified.contexts.iter().map(|(index, sms)| Partition {
            name: names
                .get(*index)
                .map(ToString::to_string)
                .unwrap_or_default(),
            sms: sms.clone(),
        });
        Self {
            chip: Chip {
                total,
                partitions: partitions.collect(),
            },
            by_ids: verified.method == VerificationMethod::SmIds,
            is_isolated: verified.is_isolated(),
        }
    }

    /// Returns whether no two partitions share an SM.
    pub fn is_isolated(&self) -> bool {
        self.is_isolated
    }

    /// Returns the number of SMs of each partition.
    pub fn sm_counts(&self) -> Vec<u32> {
        let partitions = self.chip.partitions.iter();
        partitions.map(|one| one.sms.len() as u32).collect()
    }

    /// Draws the chip with a legend, or lists the partitions where no map can be drawn.
    pub fn draw(&self, page: &mut Page) {
        if self.by_ids {
            self.chip.draw(page);
            page.gap();
            self.chip.legend(page);
            return;
        }
        page.line(format!("No map can be drawn: {IDS_UNDER_MPS}."));
        page.gap();
        for partition in &self.chip.partitions {
            page.line(format!(
                "{:>4} SMs: {}",
                partition.sms.len(),
                partition.name
            ));
        }
        if self.is_isolated {
            page.gap();
            page.line(
                "Blocks that fill all partitions ran at the same time, so no two share an SM.",
            );
        }
    }

    /// Draws the chip as SVG.
    ///
    /// # Errors
    /// Fails where no map can be drawn.
    pub fn svg(&self, title: &str, note: Option<&str>) -> anyhow::Result<String> {
        anyhow::ensure!(
            self.by_ids,
            "no picture can be drawn: {IDS_UNDER_MPS}; `cuda-green map` says whether the partitions are apart"
        );
        Ok(self.chip.svg(title, note))
    }

    /// Returns the same as JSON.
    pub fn json(&self) -> Value {
        let partitions = self.chip.partitions.iter();
        if !self.by_ids {
            let partitions =
                partitions.map(|one| json!({ "asked": one.name, "sm_count": one.sms.len() }));
            return json!({
                "partitions": partitions.collect::<Vec<_>>(),
                "isolated": self.is_isolated,
                "note": IDS_UNDER_MPS,
            });
        }
        let (unused, shared) = self.chip.stranded_and_shared();
        let partitions = partitions.map(|one| json!({ "asked": one.name, "sm_ids": one.sms }));
        json!({
            "partitions": partitions.collect::<Vec<_>>(),
            "nobodys_sms": unused.len(),
            "shared_sms": shared.len(),
        })
    }
}
