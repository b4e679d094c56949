//! Sizes of partitions as people write them: `64`, `25%`, `16+2`, `rest`.

use std::{num::IntErrorKind, str::FromStr};

use cuda_green::{
    CudaDevice,
    planner::{PartitionRequest, SmRequest},
};

use crate::partitions::quad;

/// One partition's request, with the text that it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    pub text: String,
    request: PartitionRequest,
}

impl Size {
    /// Returns the SMs that it asks for.
    pub fn sms(&self) -> SmRequest {
        self.request.sms
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a size; write 64 (SMs), 25% (a share), 16+2 (a minimum and a weight) or rest"
            )
        };
        let number = |digits: &str| {
            digits.parse::<u32>().map_err(|error| match error.kind() {
                IntErrorKind::PosOverflow => format!("`{digits}` is more than any GPU has"),
                _ => wrong(),
            })
        };
        let request = if text == "rest" {
            PartitionRequest::rest()
        } else if let Some(percent) = text.strip_suffix('%') {
            PartitionRequest::percent(number(percent)?)
        } else if let Some((at_least, weight)) = text.split_once('+') {
            PartitionRequest::share(number(at_least)?, number(weight)?)
        } else {
            PartitionRequest::at_least(number(text)?)
        };
        Ok(Self {
            text: text.to_owned(),
            request,
        })
    }
}

/// The partitions that a command line asks for.
#[derive(clap::Args)]
pub struct Sizes {
    /// Sizes: 64 (at least 64 SMs), 25%, 16+2 (at least 16, and a share of weight 2), or rest
    ///
    /// By default, four equal partitions.
    #[arg(value_name = "SIZE")]
    sizes: Vec<Size>,
    /// The thread-block cluster that must run in each partition, in blocks: 2, 4 or 8
    #[arg(long, value_name = "BLOCKS", default_value_t = 1)]
    cluster: u32,
    /// Meet sizes to within 2 SMs, even if that breaks clusters of more than 2 blocks
    #[arg(long)]
    exact: bool,
}

impl Sizes {
    /// Returns each size as it was written and as the planner takes it, for a device of `total` SMs.
    pub fn requests(&self, total: u32) -> Vec<(String, PartitionRequest)> {
        let sizes = if self.sizes.is_empty() {
            quad(total)
        } else {
            let sizes = self.sizes.iter();
            sizes
                .map(|size| (size.text.clone(), size.request))
                .collect()
        };
        let demanded = |(text, request): (String, PartitionRequest)| {
            let request = request.cluster(self.cluster);
            (text, if self.exact { request.exact() } else { request })
        };
        sizes.into_iter().map(demanded).collect()
    }

    /// Returns the explanation for the default partitions if they cannot all be a quarter of the device.
    pub fn unequal(&self, device: &CudaDevice, sm_counts: &[u32]) -> Option<String> {
        let quarter = device.properties().multiprocessor_count / 4;
        let (first, last) = (*sm_counts.first()?, *sm_counts.last()?);
        let unit = device.capabilities().granularity.min;
        let by_units = self.sizes.is_empty() && first != quarter & !1;
        by_units.then(|| {
            format!(
                "A quarter would be {quarter} SMs. CUDA {} splits this GPU into whole units of {unit}, so three partitions have {first} SMs and the last has the remaining {last}.",
                device.driver().version()
            )
        })
    }

    /// Returns the arguments as they stand on the command line.
    pub fn text(&self) -> String {
        let mut text: String = self
            .sizes
            .iter()
            .map(|size| format!(" {}", size.text))
            .collect();
        if self.cluster != 1 {
            text += &format!(" --cluster {}", self.cluster);
        }
        if self.exact {
            text += " --exact";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        let request = |text: &str| text.parse::<Size>().map(|size| size.request);
        assert_eq!(request("64"), Ok(PartitionRequest::at_least(64)));
        assert_eq!(request("25%"), Ok(PartitionRequest::percent(25)));
        assert_eq!(request("16+2"), Ok(PartitionRequest::share(16, 2)));
        assert_eq!(request("rest"), Ok(PartitionRequest::rest()));
        for wrong in [
            "",
            "-1",
            "1.5",
            "%",
            "+",
            "1+",
            "Rest",
            "4294967296",
            "25 %",
        ] {
            assert!(
                request(wrong).is_err_and(|text| text.contains(wrong)),
                "{wrong}"
            );
        }
    }
}
