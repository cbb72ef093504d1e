use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::snapshot::{self as format, FileInfo, Manifest};
use tch::nn::VarStore;

use super::{Progress, sync, tensors};
use crate::optim::Optimizer;
use crate::{Error, Result, params};

/// Folders that are being written, or being replaced: `.step-00001200.partial`.
const PARTIAL: &str = ".partial";

/// Makes the folder, and removes what an interrupted save left in it.
pub(super) fn prepare(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("can't make", dir))?;
    for entry in fs::read_dir(dir).map_err(Error::io("can't read", dir))? {
        let path = entry.map_err(Error::io("can't read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(".step-") && name.ends_with(PARTIAL) {
            fs::remove_dir_all(&path).map_err(Error::io("can't remove", &path))?;
        }
    }
    Ok(())
}

/// Writes a snapshot below `dir`, and gives its folder.
pub(super) fn save(
    dir: &Path,
    vs: &VarStore,
    optimizer: &impl Optimizer,
    Progress { epoch, step }: Progress,
    world_size: usize,
) -> Result<PathBuf> {
    let name = format::folder_name(step);
    let partial = dir.join(format!(".{name}{PARTIAL}"));
    let folder = dir.join(name);
    remove_dir_if_there(&partial)?;
    fs::create_dir_all(&partial).map_err(Error::io("can't make", &partial))?;

    let written = write_files(&partial, vs, optimizer, |files| Manifest {
        format_version: format::FORMAT_VERSION,
        epoch,
        step,
        world_size,
        samples_in_epoch: 0,
        files,
    });
    if let Err(err) = written {
        // A disk that is full gets its space back; if that fails too, the next start removes it.
        let _ = fs::remove_dir_all(&partial);
        return Err(err);
    }
    publish(&partial, &folder)?;
    sync(dir)?;
    Ok(folder)
}

fn write_files(
    partial: &Path,
    vs: &VarStore,
    optimizer: &impl Optimizer,
    manifest: impl FnOnce(BTreeMap<String, FileInfo>) -> Manifest,
) -> Result<()> {
    let mut files = BTreeMap::new();
    for (name, named) in [(format::MODEL, params::all(vs)), (format::OPTIMIZER, optimizer.state_dict())] {
        let path = partial.join(name);
        tensors::write(&path, &named)?;
        sync(&path)?;
        files.insert(name.to_owned(), FileInfo::of(&path).map_err(Error::io("can't read", &path))?);
    }
    let path = partial.join(format::MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest(files)).map_err(io::Error::from);
    text.and_then(|text| fs::write(&path, text)).map_err(Error::io("can't write", &path))?;
    sync(&path)?;
    sync(partial)
}

/// Renames `partial` to `folder`. A folder of that name (of a run that took another turn, or damaged) is moved aside
/// first: rename replaces no folder that has files.
fn publish(partial: &Path, folder: &Path) -> Result<()> {
    let mut aside = partial.to_owned();
    aside.set_file_name(format!(".{}.old{PARTIAL}", folder.file_name().unwrap_or_default().to_string_lossy()));
    remove_dir_if_there(&aside)?;
    match fs::rename(folder, &aside) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(Error::io("can't replace", folder)(err)),
        _ => {}
    }
    fs::rename(partial, folder).map_err(Error::io("can't write", folder))?;
    remove_dir_if_there(&aside)
}

fn remove_dir_if_there(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Error::io("can't remove", path)(err)),
        _ => Ok(()),
    }
}
