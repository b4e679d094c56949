//! Features of drivers: their use, their first version, and whether this driver has them.

use cuda_green::{CudaDevice, Feature};
use serde_json::{Value, json};

use crate::render::{
    page::Page,
    style::{GREEN, YELLOW},
};

/// Lists the features. All are about green contexts, which a device may lack whatever its driver.
fn features(device: &CudaDevice) -> impl Iterator<Item = (Feature, bool)> {
    let capabilities = *device.capabilities();
    let features = capabilities.features().into_iter();
    features.map(move |feature| (feature, feature.there && capabilities.green_contexts))
}

/// Returns the features as JSON, by name.
pub fn json(device: &CudaDevice) -> Value {
    let features = features(device).map(|(feature, there)| {
        let found = json!({ "there": there, "since": feature.since.to_string() });
        (feature.name.to_owned(), found)
    });
    Value::Object(features.collect())
}

/// Prints what there is, what this device lacks, and what a newer driver would add.
pub fn print(device: &CudaDevice, page: &mut Page) {
    let driver = device.driver().version();
    let (here, newer): (Vec<_>, Vec<_>) =
        features(device).partition(|(feature, _)| feature.since <= driver);
    if !here.is_empty() {
        page.gap();
        page.line(format!("with this driver, CUDA {driver}:"));
    }
    for (Feature { what, since, .. }, there) in here {
        let (style, sign) = if there {
            (GREEN, "yes")
        } else {
            (YELLOW, "no ")
        };
        let label = format!("  {style}{sign}{style:#}  ");
        page.hanging(&label, "       ", format!("{what} ({since})"));
    }
    if !newer.is_empty() {
        page.gap();
        page.line("a newer driver would add, by its version of CUDA:");
    }
    for (Feature { what, since, .. }, _) in newer {
        page.hanging(&format!("  {YELLOW}{since}{YELLOW:#}  "), "        ", what);
    }
}
