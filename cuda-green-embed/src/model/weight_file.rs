//! The file of weights, mapped into memory.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors, tensor::Metadata};
use serde::Deserialize;

use super::{
    json,
    tensor::{Tensor, TensorType},
};
use crate::error::{Error, Result};

const NAME: &str = "model.safetensors";
/// The length of the header, at the file's start.
const LENGTH_BYTES: usize = 8;

/// A mapped `model.safetensors` whose header has been checked.
pub(super) struct WeightFile {
    path: PathBuf,
    map: Arc<Mmap>,
    metadata: Metadata,
    /// The start of the tensors' values in the file.
    start: usize,
}

impl WeightFile {
    /// Maps the file of a folder and checks its header: every tensor lies in the file, and its length is that of its
    /// shape and type.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        if !path.is_file() {
            return Err(json::error(&path, absence(folder)));
        }
        let file = File::open(&path).map_err(|failure| json::error(&path, failure))?;
        // SAFETY: the map is only read, as bytes, for which every value is valid. The file must not be changed or
        // truncated meanwhile: `ModelFolder::weights` says so, as every program that maps files has to.
        let map = unsafe { Mmap::map(&file) }.map_err(|failure| json::error(&path, failure))?;
        check_offsets(&map).map_err(|reason| json::error(&path, reason))?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|failure| json::error(&path, format!("damaged: {failure}")))?;
        Ok(Self {
            path,
            map: Arc::new(map),
            metadata,
            start: LENGTH_BYTES + header,
        })
    }

    /// Returns whether there is a tensor of this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// Returns the tensor of this name, which must have this shape.
    pub(super) fn tensor(&self, name: String, shape: &[usize]) -> Result<Tensor> {
        let error = |tensor: &str, found: String| Error::Tensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            expected: format!("F32, F16 or BF16 {shape:?}"),
            found,
        };
        let Some(info) = self.metadata.info(&name) else {
            return Err(error(&name, "none of that name".to_owned()));
        };
        let dtype = match info.dtype {
            Dtype::F32 => TensorType::F32,
            Dtype::F16 => TensorType::F16,
            Dtype::BF16 => TensorType::BF16,
            _ => return Err(error(&name, format!("{} {:?}", info.dtype, info.shape))),
        };
        if info.shape != shape {
            return Err(error(&name, format!("{dtype} {:?}", info.shape)));
        }
        let (start, end) = info.data_offsets;
        let range = self.start + start..self.start + end;
        let map = Arc::clone(&self.map);
        Ok(Tensor::mapped(name, shape.to_vec(), dtype, map, range))
    }
}

/// Says what is there instead of the file, and what would help.
fn absence(folder: &Path) -> String {
    let is_there = |name: &str| folder.join(name).exists();
    if is_there("model.safetensors.index.json") {
        "the weights are in several files; save them as one (`save_pretrained` with a larger `max_shard_size`)"
    } else if is_there("pytorch_model.bin") {
        "there is no such file; pytorch_model.bin is not read: save the model as safetensors"
    } else {
        "there is no such file"
    }
    .to_owned()
}

/// Checks that no tensor ends past the file's end. safetensors 0.8 checks it too, but adds the offsets without a check
/// for overflow, so that a file made for it panics.
fn check_offsets(file: &[u8]) -> std::result::Result<(), String> {
    #[derive(Deserialize)]
    struct Entry {
        data_offsets: Option<(u64, u64)>,
    }
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("damaged: {} bytes", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|end| rest.get(..end));
    let Some(header) = header else {
        let rest = rest.len();
        return Err(format!(
            "damaged: a header of {length} bytes, {rest} bytes follow"
        ));
    };
    let entries: HashMap<String, Entry> =
        serde_json::from_slice(header).map_err(|failure| format!("damaged: {failure}"))?;
    let most = (rest.len() - header.len()) as u64;
    for (name, entry) in entries {
        if let Some((_, end)) = entry.data_offsets.filter(|(_, end)| *end > most) {
            return Err(format!(
                "truncated or damaged: tensor `{name}` ends at byte {end} of {most}"
            ));
        }
    }
    Ok(())
}
