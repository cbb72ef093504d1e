//! Reads safetensors files: the names, types, shapes and bytes of their tensors.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::{file, snapshot as format};
use memmap2::{Mmap, MmapOptions};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;

use super::foreign;
use crate::{Error, Result};

/// A safetensors file, mapped: nothing of it is read before it is asked for.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
}

/// The description of a tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its element type, in safetensors' words: `F32`.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Bytes of its elements.
    pub bytes: usize,
}

impl TensorFile {
    /// Maps the file.
    ///
    /// # Errors
    /// [`Error::System`] when it can't be read, [`Error::BadTensorFile`] when it is none.
    pub fn open(path: &Path) -> Result<Self> {
        let cant = || Error::system(format!("can't read {}", path.display()));
        let file = file::open(path).map_err(|err| match err.kind() {
            io::ErrorKind::InvalidInput => bad(path, err.to_string()),
            _ => cant()(err),
        })?;
        // SAFETY: files of tensors are replaced, not changed in place. If somebody shortens one meanwhile, this process is
        // ended by SIGBUS, and nothing is lost: what it writes gets its name when it is complete.
        let map = unsafe { MmapOptions::new().map(&file) }.map_err(cant())?;
        let opened = Self { path: path.to_owned(), map };
        if let Err(err) = opened.parse() {
            let explain =
                |foreign::Foreign { problem, help }| Error::BadTensorFile { path: opened.path.clone(), problem, help };
            return Err(foreign::explain(&opened.map).map_or(err, explain));
        }
        Ok(opened)
    }

    /// The tensors.
    ///
    /// # Errors
    /// [`Error::BadTensorFile`].
    pub fn parse(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map).map_err(|err| bad(&self.path, err.to_string()))
    }

    /// Further names of tensors (tied weights), each with the name that the file has.
    ///
    /// # Errors
    /// [`Error::BadTensorFile`].
    pub fn aliases(&self) -> Result<BTreeMap<String, String>> {
        let tensors = self.parse()?;
        let header = SafeTensors::read_metadata(&self.map);
        let (_, header) = header.map_err(|err| bad(&self.path, err.to_string()))?;
        Ok(format::aliases(header.metadata().iter().flatten(), |name| tensors.tensor(name).is_ok()))
    }

    /// Every tensor with its view, by name in the order of text with numbers in it: `h.2` before `h.10`.
    ///
    /// # Errors
    /// [`Error::BadTensorFile`].
    pub fn sorted(&self) -> Result<Vec<(String, TensorView<'_>)>> {
        let mut tensors: Vec<_> = self.parse()?.iter().map(|(name, view)| (name.to_owned(), view)).collect();
        tensors.sort_by_cached_key(|(name, _)| sort_key(name));
        Ok(tensors)
    }

    /// The descriptions of its tensors, in the same order.
    ///
    /// # Errors
    /// [`Error::BadTensorFile`].
    pub fn infos(&self) -> Result<Vec<TensorInfo>> {
        let info = |(name, view): (String, TensorView<'_>)| TensorInfo {
            name,
            dtype: dtype_name(view.dtype()),
            shape: view.shape().to_vec(),
            bytes: view.data().len(),
        };
        Ok(self.sorted()?.into_iter().map(info).collect())
    }
}

fn bad(path: &Path, problem: String) -> Error {
    Error::BadTensorFile { path: path.to_owned(), problem, help: None }
}

pub(super) fn dtype_name(dtype: Dtype) -> String {
    format!("{dtype:?}")
}

/// Sorts names with numbers in them by the numbers' values. `h.1` and `h.01` are two names: the name itself decides.
pub(super) fn sort_key(name: &str) -> (Vec<(u64, String)>, String) {
    (natural_key(name), name.to_owned())
}

fn natural_key(name: &str) -> Vec<(u64, String)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let words = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        // What begins with a word sorts after what begins with a number.
        let number = if number.is_empty() { u64::MAX } else { number.parse().unwrap_or(u64::MAX) };
        key.push((number, after[..words].to_owned()));
        rest = &after[words..];
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn tensor_names_are_sorted_by_number() {
        let mut names = ["h.10.weight", "h.2.weight", "h.2.bias", "a", "h.2", "12"];
        names.sort_by_cached_key(|name| sort_key(name));
        assert_eq!(names, ["12", "a", "h.2", "h.2.bias", "h.2.weight", "h.10.weight"]);
    }

    #[test]
    fn tensor_file_that_is_not_safetensors_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        for content in ["", "short", "\u{8}\0\0\0\0\0\0\0{\"a\": 1}"] {
            fs::write(&path, content).unwrap();
            assert!(matches!(TensorFile::open(&path), Err(Error::BadTensorFile { .. })), "{content:?}");
        }
        assert!(matches!(TensorFile::open(dir.path()), Err(Error::BadTensorFile { .. })));
        assert!(matches!(TensorFile::open(&dir.path().join("none")), Err(Error::System { .. })));
    }
}
