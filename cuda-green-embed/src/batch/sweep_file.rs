//! The file of measured curves: JSON with the version of the crate that wrote it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{BatchCurve, BatchPoint, SweepKey};
use crate::{
    error::{Error, Result},
    precision::InferencePrecision,
};

/// The crate's version: with another one, kernels and thus curves may be others.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The curves by their keys.
type Curves = BTreeMap<SweepKey, BatchCurve>;

/// Only the version, which is read before anything whose form may have changed.
#[derive(Deserialize)]
struct Header {
    version: String,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: String,
    curves: Vec<Curve>,
}

#[derive(Serialize, Deserialize)]
struct Curve {
    model: String,
    precision: String,
    device: String,
    sms: u32,
    tokens_of_text: usize,
    points: Vec<Point>,
}

#[derive(Serialize, Deserialize)]
struct Point {
    texts: usize,
    tokens: usize,
    latency_ns: u64,
    interval_ns: u64,
}

/// Reads the curves of a file. One that is not there has none; neither has one that cannot be used, which is logged.
pub(super) fn read(path: &Path) -> Curves {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Curves::new(),
        Err(error) => return ignored(path, &error),
    };
    match serde_json::from_slice::<Header>(&content) {
        Ok(header) if header.version == VERSION => {}
        Ok(Header { version }) => {
            return ignored(
                path,
                &format_args!("written by version {version}, this is {VERSION}"),
            );
        }
        Err(error) => return ignored(path, &error),
    }
    let content: Content = match serde_json::from_slice(&content) {
        Ok(content) => content,
        Err(error) => return ignored(path, &error),
    };
    let curves: Option<Curves> = content.curves.into_iter().map(parsed).collect();
    curves.unwrap_or_else(|| ignored(path, &"a size or a time that cannot be"))
}

/// Logs that a file is not used, and returns no curves.
fn ignored(path: &Path, reason: &dyn std::fmt::Display) -> Curves {
    log::warn!(
        "batch sizes are measured anew, as {} is not usable: {reason}",
        path.display()
    );
    Curves::new()
}

/// Returns the key and the curve if all of it can be true.
fn parsed(curve: Curve) -> Option<(SweepKey, BatchCurve)> {
    let precision: InferencePrecision = curve.precision.parse().ok()?;
    let key = SweepKey::new(
        curve.model,
        precision,
        curve.device,
        curve.sms,
        curve.tokens_of_text,
    );
    let points = curve.points.into_iter().map(|point| {
        (point.texts > 0 && point.interval_ns > 0).then_some(BatchPoint {
            texts: point.texts,
            tokens: point.tokens,
            latency: Duration::from_nanos(point.latency_ns),
            interval: Duration::from_nanos(point.interval_ns),
        })
    });
    let points: Option<Vec<_>> = points.collect();
    Some((key.clone(), BatchCurve::new(points?)))
}

/// Writes the curves into a new file and puts it in the place of the old one, so that a reader finds one or the other.
pub(super) fn write(path: &Path, curves: &Curves) -> Result<()> {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let content = Content {
        version: VERSION.to_owned(),
        curves: curves
            .iter()
            .map(|(key, curve)| Curve {
                model: key.model().to_owned(),
                precision: key.precision().to_owned(),
                device: key.device().to_owned(),
                sms: key.sms(),
                tokens_of_text: key.tokens_of_text(),
                points: curve
                    .points()
                    .iter()
                    .map(|point| Point {
                        texts: point.texts,
                        tokens: point.tokens,
                        latency_ns: nanos(point.latency),
                        interval_ns: nanos(point.interval).max(1),
                    })
                    .collect(),
            })
            .collect(),
    };
    let failed = |error: io::Error| Error::File {
        path: path.to_owned(),
        reason: format!("cannot be written: {error}"),
    };
    let text = serde_json::to_vec_pretty(&content).map_err(|error| failed(error.into()))?;
    // In the same folder, since a file cannot be renamed across file systems.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut file = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    file.write_all(&text).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
