use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::lock::{Lock, LockError};
use ddp_contract::snapshot::{self as format, FileInfo, Manifest};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use safetensors::tensor::serialize_to_file;

use super::export::{Renamed, renamed};
use super::names::Names;
use super::tensors::TensorFile;
use crate::{Error, Result};

/// What [`import`] made.
#[derive(Debug)]
pub struct Imported {
    /// The snapshot's folder.
    pub folder: PathBuf,
    /// The number of its tensors.
    pub tensors: usize,
    /// Tensors that were left out, as tch's models have none like them: the counters of PyTorch's BatchNorm.
    pub left_out: Vec<String>,
    /// Of how many files of a model the file is one, going by its name.
    pub shard_of: Option<u32>,
}

/// A count of batches that each of PyTorch's BatchNorms has, and none of tch's.
const NUM_BATCHES_TRACKED: &str = "num_batches_tracked";

/// Makes `dir/step-00000000`, a snapshot of nothing but a model, from another program's safetensors file. A run that
/// resumes from it begins at step 0 with these weights.
///
/// # Errors
/// [`Error::Exists`] when `dir` has snapshots, [`Error::SnapshotsInUse`], [`Error::BadTensorFile`], [`Error::BadOption`] for names that do not fit,
/// [`Error::System`].
pub fn import(file: &Path, names: &Names, dir: &Path) -> Result<Imported> {
    let source = TensorFile::open(file)?;
    let Renamed { mut tensors, aliases } = renamed(&source, names)?;
    let mut left_out = Vec::new();
    tensors.retain(|(name, _)| {
        let is_counter = name.rsplit('.').next() == Some(NUM_BATCHES_TRACKED) && !names.mention(NUM_BATCHES_TRACKED);
        left_out.extend(is_counter.then(|| name.clone()));
        !is_counter
    });
    let bad = |problem: &str| Error::BadTensorFile { path: file.to_owned(), problem: problem.into(), help: None };
    if source.parse()?.tensor("").is_ok() {
        return Err(bad("one of its tensors has an empty name"));
    }
    if tensors.is_empty() {
        return Err(bad("it has no tensor to import"));
    }
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
    let aliases = (!aliases.is_empty()).then(|| aliases.into_iter().collect());
    serialize_to_file(tensors, aliases, &model).map_err(|err| cant()(io::Error::other(err)))?;
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
    Ok(Imported { folder, tensors: count, left_out, shard_of: shard_of(file) })
}

/// `model-00001-of-00003.safetensors` is one of 3.
fn shard_of(file: &Path) -> Option<u32> {
    let (before, count) = file.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let index = before.rsplit('-').next()?;
    (is_number(index) && is_number(count)).then(|| count.parse().ok())?.filter(|count| *count > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_model_is_known_by_its_name() {
        for (name, count) in [
            ("model-00001-of-00003.safetensors", Some(3)),
            ("model-00001-of-00001.safetensors", None),
            ("model.safetensors", None),
            ("best-of-2.safetensors", None),
            ("1-of-2.safetensors", Some(2)),
        ] {
            assert_eq!(shard_of(Path::new(name)), count, "{name}");
        }
    }
}
