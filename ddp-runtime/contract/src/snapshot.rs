//! The snapshot folder: `snapshots/step-00001200/` with its files and a manifest, `state.json`.
//!
//! A snapshot is whole or absent: its files are written to a folder with another name, synced, and the folder renamed.
//! The manifest states the size and CRC-32C of every other file, so damage that came later is found before anything is
//! loaded.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The manifest's file name.
pub const MANIFEST: &str = "state.json";
/// The model's file name: parameters and buffers under their plain names.
pub const MODEL: &str = "model.safetensors";
/// The optimizer's file name: state tensors as `<parameter>.<state>`.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// The format that this version writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

const PREFIX: &str = "step-";

/// `state.json`: what a snapshot holds and where its run stood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// The epoch to go on with, from 0.
    pub epoch: u64,
    /// Optimizer steps done, over all epochs.
    pub step: u64,
    /// Number of ranks that trained it.
    pub world_size: usize,
    /// Samples of `epoch` that were trained on already, by all ranks together.
    #[serde(default)]
    pub samples_in_epoch: u64,
    /// Every other file of the folder.
    pub files: BTreeMap<String, FileInfo>,
}

/// What a file of a snapshot must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Size in bytes.
    pub bytes: u64,
    /// CRC-32C (Castagnoli) of its content, as eight hexadecimal digits.
    pub crc32c: String,
}

impl FileInfo {
    /// Size and checksum of the file at `path`.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        let (mut bytes, mut crc) = (0, 0);
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                return Ok(Self { bytes, crc32c: format!("{crc:08x}") });
            }
            bytes += n as u64;
            crc = crc32c::crc32c_append(crc, &buffer[..n]);
        }
    }
}

/// Why a folder is not a snapshot that can be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// No manifest: not a snapshot, or one that was never finished.
    #[error("it has no {MANIFEST}")]
    NoManifest,
    /// A manifest that is not one.
    #[error("its {MANIFEST} can't be read: {0}")]
    BadManifest(String),
    /// Written by a version of the future.
    #[error("its format is version {found}, and this program reads up to {FORMAT_VERSION}: use a newer ddp-runtime")]
    Newer {
        /// The version found.
        found: u32,
    },
    /// A file that the manifest names is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// A file was cut off, or has grown.
    #[error("{file} has {found} bytes where {expected} were written")]
    Size {
        /// Its name.
        file: String,
        /// Its size in bytes as written.
        expected: u64,
        /// Its size in bytes now.
        found: u64,
    },
    /// A file changed.
    #[error("{0} is damaged (its checksum is another)")]
    Checksum(String),
    /// A file could not be read.
    #[error("{file} can't be read: {source}")]
    Io {
        /// Its name.
        file: String,
        /// Why.
        source: io::Error,
    },
}

/// `step-00001200`.
pub fn folder_name(step: u64) -> String {
    format!("{PREFIX}{step:08}")
}

/// The step in a snapshot folder's name, if it is one.
pub fn step_of(folder: &Path) -> Option<u64> {
    let digits = folder.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The folders below `dir` that are named as snapshots, newest (by step) first. A missing `dir` has none.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        found.extend(step_of(&path).filter(|_| path.is_dir()).map(|step| (step, path)));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Reads a snapshot's manifest.
pub fn read_manifest(folder: &Path) -> Result<Manifest, Damage> {
    let text = match fs::read(folder.join(MANIFEST)) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(Damage::NoManifest),
        Err(source) => return Err(Damage::Io { file: MANIFEST.into(), source }),
    };
    // The version first: what else a newer manifest holds may have another shape.
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let bad = |err: serde_json::Error| Damage::BadManifest(err.to_string());
    let Version { format_version: found } = serde_json::from_slice(&text).map_err(bad)?;
    if found > FORMAT_VERSION {
        return Err(Damage::Newer { found });
    }
    serde_json::from_slice(&text).map_err(bad)
}

/// Reads a snapshot's manifest and checks that every file is there, of its size and checksum.
pub fn verify(folder: &Path) -> Result<Manifest, Damage> {
    let manifest = read_manifest(folder)?;
    for (name, expected) in &manifest.files {
        if Path::new(name).components().count() != 1 || name == ".." {
            return Err(Damage::BadManifest(format!("{name:?} is not the name of a file in the folder")));
        }
        let io_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Damage::Missing(name.clone()),
            _ => Damage::Io { file: name.clone(), source },
        };
        let path = folder.join(name);
        let found = fs::metadata(&path).map_err(io_error)?.len();
        if found != expected.bytes {
            return Err(Damage::Size { file: name.clone(), expected: expected.bytes, found });
        }
        if FileInfo::of(&path).map_err(io_error)?.crc32c != expected.crc32c {
            return Err(Damage::Checksum(name.clone()));
        }
    }
    Ok(manifest)
}

/// A snapshot that can be loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// Its folder.
    pub folder: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What a look for the newest whole snapshot found.
#[derive(Debug)]
pub struct Search {
    /// The newest whole snapshot, if there is one.
    pub whole: Option<Whole>,
    /// Newer folders (all, if none is whole), newest first, and why each was passed over.
    pub skipped: Vec<(PathBuf, Damage)>,
}

/// Looks for the newest whole snapshot below `dir`. A missing `dir` has none.
pub fn newest_whole(dir: &Path) -> io::Result<Search> {
    let mut skipped = Vec::new();
    for folder in list(dir)? {
        match verify(&folder) {
            Ok(manifest) => return Ok(Search { whole: Some(Whole { folder, manifest }), skipped }),
            Err(damage) => skipped.push((folder, damage)),
        }
    }
    Ok(Search { whole: None, skipped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_with_a_step_in_their_name_count() {
        for (name, step) in [
            ("step-00000012", Some(12)),
            ("step-123456789012", Some(123_456_789_012)),
            ("step-12", None),
            (".step-00000012.partial", None),
            ("step-0000001x", None),
            ("step-99999999999999999999999", None),
        ] {
            assert_eq!(step_of(Path::new(name)), step, "{name}");
        }
        assert_eq!(folder_name(12), "step-00000012");
    }

    #[test]
    fn a_manifest_of_version_1_is_read() {
        let text = r#"{"format_version":1,"epoch":2,"step":64,"world_size":2,"samples_in_epoch":0,
            "files":{"model.safetensors":{"bytes":92,"crc32c":"0a1b2c3d"}}}"#;
        let manifest: Manifest = serde_json::from_str(text).expect("version 1");
        assert_eq!((manifest.epoch, manifest.step, manifest.world_size), (2, 64, 2));
        assert_eq!(manifest.files["model.safetensors"].bytes, 92);
    }
}
