//! Lists the snapshots in a folder, and finds the newest valid one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::snapshot::{self as format, Manifest, SnapshotError, ValidSnapshot};

use super::nearby;
use crate::{Error, Result};

/// A snapshot folder, valid or not.
#[derive(Debug)]
pub struct Listed {
    /// The folder.
    pub folder: PathBuf,
    /// The step in its name.
    pub step: u64,
    /// Bytes in its files.
    pub bytes: u64,
    /// What it holds, or why it can't be loaded.
    pub manifest: Result<Manifest, SnapshotError>,
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
/// [`Error::NoSnapshot`] when there is none; [`Error::NoSnapshotFolder`], [`Error::System`].
pub fn list(path: &Path) -> Result<Vec<Listed>> {
    if is_snapshot(path) {
        return Ok(vec![Listed::inspect(path.to_owned())]);
    }
    let mut folders = below(path)?;
    folders.reverse();
    Ok(folders.into_iter().map(Listed::inspect).collect())
}

/// The snapshot that `path` means: itself, or the newest valid one below it.
///
/// # Errors
/// [`Error::NoSnapshot`], [`Error::NoSnapshotFolder`]; [`Error::Damaged`] if `path` is a damaged snapshot, or if all
/// snapshots below it are damaged.
pub fn newest_valid(path: &Path) -> Result<ValidSnapshot> {
    if is_snapshot(path) {
        let valid = format::valid(path).map_err(|damage| Error::Damaged { folder: path.to_owned(), damage })?;
        return valid.ok_or_else(|| no_snapshot(path));
    }
    below(path)?;
    let search = format::newest_valid(path).map_err(cant_read(path))?;
    search.valid.ok_or_else(|| match search.skipped.into_iter().next() {
        Some((folder, damage)) => Error::Damaged { folder, damage },
        None => no_snapshot(path),
    })
}

fn no_snapshot(dir: &Path) -> Error {
    let others = nearby::folders_below(Path::new("."));
    Error::NoSnapshot { dir: dir.to_owned(), others: others.iter().map(|path| tidy(path)).collect() }
}

/// Without the `./` before it.
fn tidy(path: &Path) -> PathBuf {
    path.strip_prefix(".").unwrap_or(path).to_owned()
}

/// Below `dir`, newest first; at least one.
fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let no_folder = |problem| {
        let others = nearby::folders_below(Path::new("."));
        Err(Error::NoSnapshotFolder {
            path: dir.to_owned(),
            problem,
            others: others.iter().map(|path| tidy(path)).collect(),
        })
    };
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return no_folder("it is not a directory"),
        Err(err) if err.kind() == io::ErrorKind::NotFound => return no_folder("it does not exist"),
        Err(err) => return Err(cant_read(dir)(err)),
    }
    let folders = format::list(dir).map_err(cant_read(dir))?;
    if folders.is_empty() { Err(no_snapshot(dir)) } else { Ok(folders) }
}

/// The newest snapshot at `path`, valid or not.
pub(super) fn newest(path: &Path) -> Option<PathBuf> {
    if is_snapshot(path) { Some(path.to_owned()) } else { below(path).ok()?.into_iter().next() }
}

fn is_snapshot(path: &Path) -> bool {
    // A manifest next to snapshots is a stray file, which must not hide them.
    let has_manifest = || path.join(format::MANIFEST).exists() && format::list(path).is_ok_and(|list| list.is_empty());
    path.is_dir() && (format::step_of(path).is_some() || has_manifest())
}

fn cant_read(path: &Path) -> impl FnOnce(io::Error) -> Error {
    Error::system(format!("can't read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(format::MANIFEST), "{}").unwrap();
    }

    #[test]
    fn stray_manifest_hides_no_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let steps = [1, 2].map(|step| dir.path().join(format::folder_name(step)));
        steps.iter().for_each(|folder| snapshot(folder));
        snapshot(dir.path());
        let found: Vec<_> = list(dir.path()).unwrap().into_iter().map(|listed| listed.folder).collect();
        assert_eq!(found, steps);
        assert!(matches!(newest_valid(dir.path()), Err(Error::Damaged { folder, .. }) if folder == steps[1]));
        // A snapshot may have another name: by its manifest, it is one.
        let renamed = dir.path().join("best");
        snapshot(&renamed);
        assert_eq!(list(&renamed).unwrap().len(), 1);
    }

    #[test]
    fn path_that_is_not_a_folder_is_refused_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        fs::write(&file, "").unwrap();
        for (path, words) in [(&file, "it is not a directory"), (&dir.path().join("none"), "it does not exist")] {
            for err in [list(path).unwrap_err(), newest_valid(path).unwrap_err()] {
                assert!(err.to_string().contains(words), "{err}");
                assert!(err.hint().unwrap().contains("(a folder `step-…`)"));
            }
        }
    }
}
