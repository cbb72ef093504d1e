use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::lock::{Lock, LockError};
use ddp_contract::snapshot::{self as format, FileInfo, Manifest};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use safetensors::tensor::serialize_to_file;

use super::export::renamed;
use super::names::Names;
use super::tensors::TensorFile;
use crate::{Error, Result};

/// Makes `dir/step-00000000`, a snapshot of nothing but a model, from another program's safetensors file, and gives its
/// folder and the number of tensors. A run that resumes from it begins at step 0 with these weights.
///
/// # Errors
/// [`Error::Exists`] when `dir` has snapshots, [`Error::SnapshotsInUse`], [`Error::BadTensorFile`], [`Error::BadOption`] for names that do not fit,
/// [`Error::System`].
pub fn import(file: &Path, names: &Names, dir: &Path) -> Result<(PathBuf, usize)> {
    let source = TensorFile::open(file)?;
    let tensors = renamed(&source, names)?;
    let count = tensors.len();
    let folder = dir.join(format::folder_name(0));
    let cant = || Error::system(format!("can't write {}", folder.display()));
    fs::create_dir_all(dir).map_err(cant())?;
    // A run that starts meanwhile would remove what is not complete yet.
    let _lock = Lock::acquire(dir, None).map_err(|err| match err {
        LockError::Io(err) => cant()(err),
        held => Error::SnapshotsInUse { dir: dir.to_owned(), problem: held.to_string() },
    })?;
    // A run would resume from the newest one, and not from this.
    if let Some(newest) = format::list(dir).map_err(cant())?.into_iter().next() {
        return Err(Error::Exists(newest));
    }
    let place = tempfile::Builder::new().prefix(".step-import-").suffix(".partial").tempdir_in(dir).map_err(cant())?;
    let partial = place.path().join("snapshot");
    fs::create_dir(&partial).map_err(cant())?;
    let model = partial.join(format::MODEL);
    serialize_to_file(tensors, None, &model).map_err(|err| cant()(io::Error::other(err)))?;
    let manifest = Manifest {
        format_version: format::FORMAT_VERSION,
        epoch: 0,
        step: 0,
        world_size: 1,
        samples_in_epoch: 0,
        metric: None,
        states: BTreeMap::from([("imported".into(), file.display().to_string().into())]),
        non_finite: BTreeMap::new(),
        non_finite_since: None,
        files: BTreeMap::from([(format::MODEL.to_owned(), FileInfo::of(&model).map_err(cant())?)]),
    };
    let path = partial.join(format::MANIFEST);
    let text = format::manifest_text(&manifest);
    text.and_then(|text| fs::write(&path, text)).map_err(cant())?;
    for written in [&model, &path, &partial] {
        File::open(written).and_then(|file| file.sync_all()).map_err(cant())?;
    }
    match renameat_with(CWD, &partial, CWD, &folder, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Err(Error::Exists(folder)),
        // A file system that can't promise it.
        Err(_) => fs::rename(&partial, &folder).map_err(cant())?,
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(cant())?;
    Ok((folder, count))
}
