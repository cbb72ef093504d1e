use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::snapshot::{self as format, Damage, Manifest, Whole};

use crate::{Error, Result};

/// A snapshot folder, whole or not.
#[derive(Debug)]
pub struct Listed {
    /// The folder.
    pub folder: PathBuf,
    /// The step in its name.
    pub step: u64,
    /// Bytes in its files.
    pub bytes: u64,
    /// What it holds, or why it can't be loaded.
    pub manifest: Result<Manifest, Damage>,
}

impl Listed {
    fn inspect(folder: PathBuf) -> Self {
        let files = fs::read_dir(&folder).into_iter().flatten().flatten();
        let bytes = files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum();
        let manifest = format::verify(&folder);
        let step = format::step_of(&folder).or_else(|| manifest.as_ref().ok().map(|manifest| manifest.step));
        Self { step: step.unwrap_or_default(), folder, bytes, manifest }
    }
}

/// The snapshots that `path` means, oldest first, with every checksum tested: those below it, or the one that it is.
///
/// # Errors
/// [`Error::NoSnapshot`] when there is none; [`Error::System`].
pub fn list(path: &Path) -> Result<Vec<Listed>> {
    if is_snapshot(path) {
        return Ok(vec![Listed::inspect(path.to_owned())]);
    }
    let mut folders = below(path)?;
    folders.reverse();
    Ok(folders.into_iter().map(Listed::inspect).collect())
}

/// The snapshot that `path` means: itself, or the newest whole one below it.
///
/// # Errors
/// [`Error::NoSnapshot`]; [`Error::Damaged`] when it, or the newest of several of which none is whole, is damaged.
pub fn whole(path: &Path) -> Result<Whole> {
    if is_snapshot(path) {
        let whole = format::whole(path).map_err(|damage| Error::Damaged { folder: path.to_owned(), damage })?;
        return whole.ok_or_else(|| Error::NoSnapshot(path.to_owned()));
    }
    below(path)?;
    let search = format::newest_whole(path).map_err(cant_read(path))?;
    search.whole.ok_or_else(|| match search.skipped.into_iter().next() {
        Some((folder, damage)) => Error::Damaged { folder, damage },
        None => Error::NoSnapshot(path.to_owned()),
    })
}

/// Below `dir`, newest first; at least one.
pub(super) fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let missing = || cant_read(dir)(io::ErrorKind::NotFound.into());
    let folders = if dir.exists() { format::list(dir).map_err(cant_read(dir))? } else { return Err(missing()) };
    if folders.is_empty() { Err(Error::NoSnapshot(dir.to_owned())) } else { Ok(folders) }
}

fn is_snapshot(path: &Path) -> bool {
    path.is_dir() && (format::step_of(path).is_some() || path.join(format::MANIFEST).exists())
}

fn cant_read(path: &Path) -> impl FnOnce(io::Error) -> Error {
    Error::system(format!("can't read {}", path.display()))
}
