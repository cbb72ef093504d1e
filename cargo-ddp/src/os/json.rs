//! Reading JSON from small regular files.

use std::path::Path;

use ddp_contract::file;
use serde::de::DeserializeOwned;

/// The JSON in a small regular file, if it is valid.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&file::read(path, file::SMALL).ok()?).ok()
}
