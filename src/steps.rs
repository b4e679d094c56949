//! The steps of the API's history: the versions that brought something. Lists of simulated drivers that claim
//! to have each of them are held to it.

use cuda_green::{Capabilities, CudaVersion, Feature, sim::Sim};

/// All that versions of the driver bring, and whether this version has it.
pub fn features(version: CudaVersion) -> Vec<Feature> {
    // Nothing of it depends on the device.
    Capabilities::of(version, (9, 0), None).features()
}

/// Returns whether a list of simulated drivers has one on each step, from 12.4 on.
///
/// # Errors
/// The steps that are missing, or a driver that is none.
pub fn all_among(profiles: &[&str]) -> Result<(), String> {
    let mut there = Vec::new();
    for profile in profiles {
        let simulator = Sim::new(profile).map_err(|error| error.to_string())?;
        there.push(features(simulator.profile().cuda_version));
    }
    let missing: Vec<String> = features(CudaVersion::new(0, 0))
        .into_iter()
        .filter(|feature| !there.contains(&features(feature.since)))
        .map(|feature| format!("{} ({})", feature.since, feature.name))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("no driver of {}", missing.join(", ")))
    }
}
