//! `cargo ddp snapshot import`: a snapshot from another program's safetensors file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::lock::{Lock, LockError};
use ddp_contract::snapshot::{self as format, FileInfo, Manifest};
use safetensors::tensor::{TensorView, serialize_to_file};

use super::export::{Renamed, renamed};
use super::find::newest;
use super::foreign::JOIN;
use super::names::Names;
use super::tensors::{TensorFile, dtype_name};
use crate::os::filesystem::rename_new;
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
/// [`Error::Exists`] when `dir` has snapshots, [`Error::SnapshotsInUse`], [`Error::BadTensorFile`], [`Error::CantImport`],
/// [`Error::BadOption`] for names that do not fit, [`Error::System`].
pub fn import(file: &Path, names: &Names, dir: &Path) -> Result<Imported> {
    let cant_import =
        |problem: String, help: &str| Err(Error::CantImport { path: file.to_owned(), problem, help: help.into() });
    if file.is_dir() {
        let (problem, help) = directory(file);
        return cant_import(problem, &help);
    }
    let source = TensorFile::open(file)?;
    let Renamed { mut tensors, aliases } = renamed(&source, names)?;
    let mut left_out = Vec::new();
    tensors.retain(|(name, _)| {
        let is_counter = name.rsplit('.').next() == Some(NUM_BATCHES_TRACKED) && !names.mention(NUM_BATCHES_TRACKED);
        left_out.extend(is_counter.then(|| name.clone()));
        !is_counter
    });
    if tensors.is_empty() && left_out.is_empty() {
        return cant_import("it has no tensor to import".into(), "give a file with the tensors of a model");
    }
    if tensors.is_empty() {
        let problem = format!("it has no tensor to import except BatchNorm's counters ({NUM_BATCHES_TRACKED})");
        return cant_import(problem, "give a file with the weights, or a table with --names that has the counters");
    }
    if tensors.iter().any(|(name, _)| name.is_empty()) {
        let help = "give it a name with --names and a file like {\"\": \"NAME\"}; {\"\": \"\"} leaves the tensor out";
        return cant_import("one of its tensors has an empty name".into(), help);
    }
    let is_loadable = |view: &TensorView<'_>| format::DTYPES.contains(&&*dtype_name(view.dtype()));
    if let Some((name, view)) = tensors.iter().find(|(_, view)| !is_loadable(view)) {
        let problem =
            format!("{name} is {}, but a run loads only {}", dtype_name(view.dtype()), format::DTYPES.join(", "));
        let help = "convert such tensors in Python, as with `tensor.to(torch.float32)`, or leave them out with --names";
        return cant_import(problem, help);
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
        bucket_order: vec![],
        files: BTreeMap::from([(format::MODEL.to_owned(), FileInfo::read(&model).map_err(cant())?)]),
    };
    let path = partial.join(format::MANIFEST);
    let text = format::manifest_text(&manifest);
    text.and_then(|text| fs::write(&path, text)).map_err(cant())?;
    for written in [&model, &path, &partial] {
        File::open(written).and_then(|file| file.sync_all()).map_err(cant())?;
    }
    match rename_new(&partial, &folder) {
        Ok(()) => {}
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(folder)),
        Err(err) => return Err(cant()(err)),
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(cant())?;
    Ok(Imported { folder, tensors: count, left_out, shard_of: shard_of(file) })
}

/// Why a directory can't be imported, and which file in it can.
fn directory(path: &Path) -> (String, String) {
    let give = |file: &Path| format!("give the file: {}", file.display());
    if let Some(snapshot) = newest(path) {
        return ("it is a snapshot, or a folder of snapshots".into(), give(&snapshot.join(format::MODEL)));
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect();
    files.sort_unstable();
    match files.as_slice() {
        [] => ("it is a directory, without a safetensors file".into(), "give a safetensors file".into()),
        [one] => ("it is a directory".into(), give(one)),
        [first, ..] if shard_of(first).is_some() => {
            (format!("it is a directory with a model in {} files", files.len()), format!("{JOIN}; give that file"))
        }
        [first, ..] => (
            format!("it is a directory with {} safetensors files", files.len()),
            format!("{}, or another", give(first)),
        ),
    }
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
    use safetensors::tensor::Dtype;

    #[test]
    fn shard_of_a_model_is_recognized_by_its_name() {
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

    fn written(path: &Path, tensors: &[(&str, Dtype)]) {
        let data = [0; 8];
        let view = |dtype: Dtype| TensorView::new(dtype, vec![64 / dtype.bitsize()], &data).unwrap();
        serialize_to_file(tensors.iter().map(|(name, dtype)| (name, view(*dtype))), None, path).unwrap();
    }

    #[test]
    fn import_refuses_files_that_no_run_can_load_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let (file, to) = (dir.path().join("model.safetensors"), dir.path().join("snapshots"));
        for (tensors, problem, help) in [
            (&[][..], "no tensor to import", "tensors of a model"),
            (&[("bn.num_batches_tracked", Dtype::I64)], "except BatchNorm's counters", "--names"),
            (&[("", Dtype::F32), ("a", Dtype::F32)], "an empty name", r#"{"": "NAME"}"#),
            (&[("a", Dtype::F32), ("w", Dtype::U16)], "w is U16, but a run loads only F64, F32, ", "--names"),
            (&[("w", Dtype::U32)], "w is U32", "convert"),
            (&[("w", Dtype::U64)], "w is U64", "convert"),
            (&[("w", Dtype::C64)], "w is C64", "convert"),
            (&[("w", Dtype::F4)], "w is F4", "convert"),
            (&[("w", Dtype::F8_E4M3)], "w is F8_E4M3", "convert"),
        ] {
            written(&file, tensors);
            let err = import(&file, &Names::default(), &to).unwrap_err();
            assert!(err.to_string().contains(problem) && !err.to_string().contains("safetensors file"), "{err}");
            assert!(err.hint().unwrap().contains(help), "{problem}: {:?}", err.hint());
        }
        assert!(!to.exists());
        // Names help: a name for one, and the other is left out.
        written(&file, &[("", Dtype::F32), ("w", Dtype::U16)]);
        let names = dir.path().join("names.json");
        fs::write(&names, r#"{"": "bias", "w": ""}"#).unwrap();
        assert_eq!(import(&file, &Names::read(&names).unwrap(), &to).unwrap().tensors, 1);
    }

    #[test]
    fn import_of_a_directory_names_the_file_to_pass() {
        let dir = tempfile::tempdir().unwrap();
        let (run, to) = (dir.path().join("run"), dir.path().join("to"));
        fs::create_dir(&run).unwrap();
        let hint = || import(&run, &Names::default(), &to).unwrap_err().hint().unwrap();
        assert_eq!(hint(), "give a safetensors file");
        for (name, words) in [
            ("model-00001-of-00002.safetensors", "run/model-00001-of-00002.safetensors"),
            ("model-00002-of-00002.safetensors", "join the files"),
            ("a.safetensors", "run/a.safetensors, or another"),
            ("step-00000008/model.safetensors", "run/step-00000008/model.safetensors"),
        ] {
            fs::create_dir_all(run.join(name).parent().unwrap()).unwrap();
            written(&run.join(name), &[("a", Dtype::F32)]);
            assert!(hint().contains(words), "{words:?} is not in {:?}", hint());
        }
        assert!(!to.exists());
    }
}
