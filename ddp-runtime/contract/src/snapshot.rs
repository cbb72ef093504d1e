//! The snapshot folder: `snapshots/step-00001200/` with its files and a manifest, `state.json`.
//!
//! A snapshot is complete or absent: its files are written to a directory with another name, synced, and the directory renamed.
//! The manifest states the size and CRC-32C of every other file, and ends with its own, so damage that came later is
//! found before anything is loaded.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::aliases::aliases;
pub use crate::checksum::FileInfo;
use crate::checksum::hex;
use crate::file;
pub use crate::file_names::{MANIFEST, MODEL, OPTIMIZER, RNG, STATES};
pub use crate::hold::Hold;

/// The dtypes that a snapshot's tensors can have, as safetensors names them.
pub const DTYPES: [&str; 10] = ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"];
/// The format that this version writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The end of the name of a folder that is being written, replaced or removed: `.step-00001200.partial`.
pub const PARTIAL: &str = ".partial";

const PREFIX: &str = "step-";
/// The largest step, epoch or number of samples, so that adding to it never overflows.
const LARGEST_NUMBER: u64 = 1 << 62;
/// How long snapshots are looked for while others remove them.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any manifest has, in bytes.
const LARGEST_MANIFEST: u64 = 1 << 30;

/// `state.json`: what a snapshot holds, and the progress of its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// The epoch to continue with, from 0.
    pub epoch: u64,
    /// Optimizer steps done, over all epochs.
    pub step: u64,
    /// Number of ranks that trained it.
    pub world_size: usize,
    /// Samples of `epoch` that were trained on already, by all ranks together.
    #[serde(default)]
    pub samples_in_epoch: u64,
    /// The metric by which the run was judged when it was saved, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// States that are no tensors, by name: `scheduler`, `scaler`, and the program's own as `value.<name>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, Value>,
    /// Where strings in [`states`](Self::states) represent numbers that JSON lacks (`"NaN"`, `"inf"`, `"-inf"`), as JSON
    /// pointers (RFC 6901), by the state's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub non_finite: BTreeMap<String, Vec<String>>,
    /// The step since which the run's loss or weights were not finite numbers, if they were not when it was saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_finite_since: Option<u64>,
    /// The names of the trained parameters in the order of DDP's rebuilt buckets. With three or more ranks, the order determines
    /// the last bits of the averaged gradients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bucket_order: Vec<String>,
    /// Every other file of the folder.
    pub files: BTreeMap<String, FileInfo>,
}

/// Why a folder is not a snapshot that can be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// No manifest: the folder is not a snapshot, or it is an unfinished one.
    #[error("{MANIFEST} is missing")]
    NoManifest,
    /// The manifest is not valid.
    #[error("can't read {MANIFEST}: {0}")]
    BadManifest(String),
    /// The manifest changed.
    #[error("{MANIFEST}: checksum mismatch")]
    ManifestChecksum,
    /// Written by a newer version.
    #[error(
        "unsupported format version {found}: this program reads up to version {FORMAT_VERSION}; use a newer ddp-runtime"
    )]
    Newer {
        /// The version found.
        found: u32,
    },
    /// A file that the manifest names is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// A file was cut off, or has grown.
    #[error("{file} has {found} bytes, expected {expected}")]
    Size {
        /// Its name.
        file: String,
        /// Its size in bytes as written.
        expected: u64,
        /// Its size in bytes now.
        found: u64,
    },
    /// A file changed.
    #[error("{0}: checksum mismatch")]
    Checksum(String),
    /// A file could not be read.
    #[error("can't read {file}: {reason}")]
    Io {
        /// Its name.
        file: String,
        /// Why.
        reason: io::Error,
    },
}

/// `step-00001200`.
pub fn folder_name(step: u64) -> String {
    format!("{PREFIX}{step:08}")
}

/// [`folder_name`], then the names with more zeros. Of two snapshots of one step, the one with more zeros is newer.
pub fn folder_names(step: u64) -> impl Iterator<Item = String> {
    (0..=16).map(move |zeros| format!("{PREFIX}{}{step:08}", "0".repeat(zeros)))
}

/// The step in a snapshot folder's name, if it is one.
pub fn step_of(folder: &Path) -> Option<u64> {
    let digits = folder.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The folders below `dir` that are named as snapshots, newest (by step) first. Of two with one step, the one with more zeros
/// is newer: it was saved when the other could not be replaced. A missing `dir` has none.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let length = path.as_os_str().len();
        found.extend(step_of(&path).filter(|_| path.is_dir()).map(|step| (step, length, path)));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(.., path)| path).collect())
}

/// The text of a manifest: JSON whose last field is the CRC-32C of everything before it.
///
/// # Errors
/// A state that JSON can't hold.
pub fn manifest_text(manifest: &Manifest) -> io::Result<String> {
    let text = serde_json::to_string_pretty(manifest)?;
    let body = text.trim_end().trim_end_matches('}').trim_end();
    Ok(format!("{body}{}", seal(body)))
}

const SEAL: &str = ",\n  \"crc32c\": \"";

fn seal(body: &str) -> String {
    format!("{SEAL}{}\"\n}}\n", hex(crc32c::crc32c(body.as_bytes())))
}

/// Reads a snapshot's manifest.
///
/// # Errors
/// What is wrong with it.
pub fn read_manifest(folder: &Path) -> Result<Manifest, SnapshotError> {
    let text = match file::read(&folder.join(MANIFEST), LARGEST_MANIFEST) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(SnapshotError::NoManifest),
        Err(reason) => return Err(SnapshotError::Io { file: MANIFEST.into(), reason }),
    };
    // The version first: what else a newer manifest holds may have another shape.
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let bad = |err: serde_json::Error| SnapshotError::BadManifest(err.to_string());
    let Version { format_version: found } = serde_json::from_slice(&text).map_err(bad)?;
    if found > FORMAT_VERSION {
        return Err(SnapshotError::Newer { found });
    }
    let text = std::str::from_utf8(&text).map_err(|err| SnapshotError::BadManifest(err.to_string()))?;
    let body = text.rfind(SEAL).map(|at| &text[..at]);
    if body.is_none_or(|body| text[body.len()..] != seal(body)) {
        return Err(SnapshotError::ManifestChecksum);
    }
    let manifest: Manifest = serde_json::from_str(text).map_err(bad)?;
    let largest = [manifest.step, manifest.epoch, manifest.samples_in_epoch].into_iter().max();
    if largest.is_some_and(|number| number > LARGEST_NUMBER) {
        return Err(SnapshotError::BadManifest("step, epoch or number of samples is too large".into()));
    }
    Ok(manifest)
}

/// Reads a snapshot's manifest and checks that every file exists and has its size and checksum.
pub fn verify(folder: &Path) -> Result<Manifest, SnapshotError> {
    let manifest = read_manifest(folder)?;
    for (name, expected) in &manifest.files {
        if Path::new(name).components().count() != 1 || name == ".." {
            return Err(SnapshotError::BadManifest(format!("{name:?} is not a file name")));
        }
        let io_error = |reason: io::Error| match reason.kind() {
            io::ErrorKind::NotFound => SnapshotError::Missing(name.clone()),
            _ => SnapshotError::Io { file: name.clone(), reason },
        };
        let path = folder.join(name);
        let found = fs::metadata(&path).map_err(io_error)?.len();
        if found != expected.bytes {
            return Err(SnapshotError::Size { file: name.clone(), expected: expected.bytes, found });
        }
        if FileInfo::read(&path).map_err(io_error)?.crc32c != expected.crc32c {
            return Err(SnapshotError::Checksum(name.clone()));
        }
    }
    Ok(manifest)
}

/// Verifies the snapshot in `folder`, and holds it; `None` if it was removed meanwhile.
pub fn valid(folder: &Path) -> Result<Option<ValidSnapshot>, SnapshotError> {
    let Some(hold) = Hold::acquire(folder) else { return Ok(None) };
    match verify(folder) {
        Ok(manifest) => Ok(Some(ValidSnapshot { folder: folder.to_owned(), manifest, hold })),
        Err(_) if !folder.exists() => Ok(None),
        Err(damage) => Err(damage),
    }
}

/// A snapshot that can be loaded.
#[derive(Clone, Debug)]
pub struct ValidSnapshot {
    /// Its folder.
    pub folder: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Until this is dropped, no other program removes the snapshot.
    pub hold: Hold,
}

/// What a search for the newest valid snapshot found.
#[derive(Debug)]
pub struct Found {
    /// The newest valid snapshot, if there is one.
    pub valid: Option<ValidSnapshot>,
    /// Newer directories (all, if none is valid), newest first, and why each was skipped.
    pub skipped: Vec<(PathBuf, SnapshotError)>,
}

/// Looks for the newest valid snapshot below `dir`. A missing `dir` has none.
pub fn newest_valid(dir: &Path) -> io::Result<Found> {
    let start = Instant::now();
    loop {
        let (mut skipped, mut removed) = (Vec::new(), false);
        for folder in list(dir)? {
            match valid(&folder) {
                Ok(Some(found)) => return Ok(Found { valid: Some(found), skipped }),
                Ok(None) => removed = true,
                Err(damage) => skipped.push((folder, damage)),
            }
        }
        // A run removes snapshots when there are newer ones.
        if !removed || start.elapsed() > PATIENCE {
            return Ok(Found { valid: None, skipped });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Declares `variant` (the name of an error's variant) and `samples` (an error of each variant). Without an entry for each
    /// variant, the match is not exhaustive.
    macro_rules! samples {
        ($($variant:ident: $sample:expr,)+) => {
            fn variant(error: &SnapshotError) -> &'static str {
                match error { $(SnapshotError::$variant { .. } => stringify!($variant),)+ }
            }

            fn samples() -> Vec<(&'static str, SnapshotError)> {
                vec![$((stringify!($variant), $sample)),+]
            }
        };
    }

    samples! {
        NoManifest: SnapshotError::NoManifest,
        BadManifest: SnapshotError::BadManifest("expected `,` or `}` at line 3 column 5".into()),
        ManifestChecksum: SnapshotError::ManifestChecksum,
        Newer: SnapshotError::Newer { found: 2 },
        Missing: SnapshotError::Missing(MODEL.into()),
        Size: SnapshotError::Size { file: MODEL.into(), expected: 100, found: 92 },
        Checksum: SnapshotError::Checksum(MODEL.into()),
        Io: SnapshotError::Io { file: MODEL.into(), reason: io::Error::from_raw_os_error(13) },
    }

    #[test]
    fn error_texts() {
        let text = samples().into_iter().map(|(name, error)| {
            assert_eq!(variant(&error), name);
            format!("{name}: {error}\n")
        });
        insta::assert_snapshot!(text.collect::<String>());
    }

    #[test]
    fn snapshot_folders_have_a_step_in_their_name() {
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
        let names: Vec<String> = folder_names(12).take(3).collect();
        assert_eq!(names, ["step-00000012", "step-000000012", "step-0000000012"]);
        assert!(folder_names(u64::MAX).all(|name| step_of(Path::new(&name)) == Some(u64::MAX)));
    }

    #[test]
    fn manifest_of_version_1_is_read() {
        let folder = std::env::temp_dir().join(format!("ddp-contract-manifest-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let text = "{\n  \"format_version\": 1,\n  \"epoch\": 2,\n  \"step\": 64,\n  \"world_size\": 2,\n  \
            \"samples_in_epoch\": 7,\n  \"states\": {\n    \"value.best\": 0.1\n  },\n  \"files\": {\n    \
            \"model.safetensors\": {\n      \"bytes\": 92,\n      \"crc32c\": \"0a1b2c3d\"\n    }\n  },\n  \
            \"crc32c\": \"16c419fb\"\n}\n";
        fs::write(folder.join(MANIFEST), text).expect("a temporary file");
        let manifest = read_manifest(&folder).expect("version 1");
        assert_eq!((manifest.epoch, manifest.step, manifest.world_size), (2, 64, 2));
        assert_eq!((manifest.samples_in_epoch, manifest.metric), (7, None));
        assert_eq!(manifest.files["model.safetensors"].bytes, 92);
        assert_eq!(manifest.states["value.best"], 0.1);
        assert_eq!(manifest_text(&manifest).expect("plain data"), text);

        fs::write(folder.join(MANIFEST), text.replace("\"step\": 64", "\"step\": 65")).expect("a temporary file");
        assert!(matches!(read_manifest(&folder), Err(SnapshotError::ManifestChecksum)));
        for step in [u64::MAX, u64::MAX - 1] {
            let text = manifest_text(&Manifest { step, ..manifest.clone() }).expect("plain data");
            fs::write(folder.join(MANIFEST), text).expect("a temporary file");
            assert!(matches!(read_manifest(&folder), Err(SnapshotError::BadManifest(_))), "no step can follow");
        }
        fs::remove_dir_all(&folder).expect("it is there");
    }
}
