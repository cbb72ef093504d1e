//! A snapshot's way to the disk: whole or absent.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use ddp_contract::Event;
use ddp_contract::snapshot::{self as format, FileInfo, Manifest};

use super::keep::{Best, Keep};
use super::stage::Stage;
use super::tensors::{self, HostTensor};
use crate::events::Events;
use crate::{Error, Result};

/// Folders that are being written, replaced or removed: `.step-00001200.partial`.
pub(super) const PARTIAL: &str = ".partial";

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

/// Whether a folder can be made in `dir`.
pub(super) fn try_out(dir: &Path) -> Result<()> {
    let probe = dir.join(format!(".step-probe-{}{PARTIAL}", std::process::id()));
    fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).map_err(Error::io("can't save snapshots in", dir))
}

/// Everything that a snapshot holds, apart from the run.
pub(super) struct Job {
    pub(super) dir: PathBuf,
    /// All but the files.
    pub(super) manifest: Manifest,
    pub(super) tensors: Vec<(&'static str, Vec<HostTensor>)>,
    /// Further names of the model's tensors.
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) keep: Keep,
    /// Wait for the disk before the snapshot gets its name.
    pub(super) durable: bool,
    pub(super) events: Events,
}

/// A snapshot that is being written in a thread of its own, and what is left of it.
pub(super) struct Writing(JoinHandle<(Stage, Result<()>)>);

impl Job {
    pub(super) fn start(self, stage: Stage) -> Result<Writing> {
        let dir = self.dir.clone();
        let spawned = thread::Builder::new().name("ddp-snapshot".into()).spawn(move || self.run(stage));
        spawned.map(Writing).map_err(Error::io("can't start a thread to write to", dir))
    }

    fn run(self, mut stage: Stage) -> (Stage, Result<()>) {
        let written = self.write();
        let result = written.and_then(|folder| {
            let Manifest { epoch, step, metric, .. } = self.manifest;
            let lower_is_better = self.keep.best.map(|(_, best)| best == Best::Min);
            self.events.send(&Event::SnapshotSaved { snapshot: folder, epoch, step, metric, lower_is_better });
            self.keep.prune(&self.dir)
        });
        for (file, tensors) in self.tensors {
            stage.recycle(file, tensors);
        }
        (stage, result)
    }

    /// Writes the snapshot, and gives its folder.
    fn write(&self) -> Result<PathBuf> {
        let name = format::folder_name(self.manifest.step);
        let partial = self.dir.join(format!(".{name}{PARTIAL}"));
        remove_dir_if_there(&partial)?;
        if let Err(err) = self.write_files(&partial) {
            // A disk that is full gets its space back; if that fails too, the next start removes it.
            let _ = fs::remove_dir_all(&partial);
            return Err(err);
        }
        let folder = self.dir.join(name);
        publish(&partial, &folder)?;
        self.sync(&self.dir)?;
        Ok(folder)
    }

    fn write_files(&self, partial: &Path) -> Result<()> {
        fs::create_dir(partial).map_err(Error::writing(partial))?;
        let mut files: BTreeMap<String, FileInfo> = BTreeMap::new();
        for (file, tensors) in &self.tensors {
            let aliases = if *file == format::MODEL { &self.aliases } else { &BTreeMap::new() };
            files.insert((*file).to_owned(), tensors::write(&partial.join(file), tensors, aliases, self.durable)?);
        }
        let path = partial.join(format::MANIFEST);
        let text = format::manifest_text(&Manifest { files, ..self.manifest.clone() });
        text.and_then(|text| fs::write(&path, text)).map_err(Error::writing(&path))?;
        for file in self.tensors.iter().map(|(file, _)| *file).chain([format::MANIFEST]) {
            self.sync(&partial.join(file))?;
        }
        self.sync(partial)
    }

    /// Makes what was written to `path` (a file's content, a folder's entries) survive a power cut.
    fn sync(&self, path: &Path) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        fs::File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("can't sync", path))
    }
}

impl Writing {
    /// Waits for the end.
    pub(super) fn wait(self) -> (Stage, Result<()>) {
        let panicked = |_| (Stage::default(), Err(Error::Invalid("the thread that writes snapshots panicked".into())));
        self.0.join().unwrap_or_else(panicked)
    }
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writing")
    }
}

/// Gives `partial` the name `folder`. A folder of that name (of a run that took another turn, damaged, or saved twice at
/// one step) is exchanged for it, so that at every moment one of them is there.
fn publish(partial: &Path, folder: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let can_not = |err: rustix::io::Errno| Error::io("can't write", folder)(err.into());
    match fs::rename(partial, folder) {
        Ok(()) => return Ok(()),
        Err(err) if err.kind() == io::ErrorKind::DirectoryNotEmpty || err.kind() == io::ErrorKind::AlreadyExists => {}
        Err(err) => return Err(Error::writing(folder)(err)),
    }
    match renameat_with(CWD, partial, CWD, folder, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // A file system that can't: the old one goes first.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let aside = partial.with_extension(format!("old{PARTIAL}"));
            fs::rename(folder, &aside).and_then(|()| fs::rename(partial, folder)).map_err(Error::writing(folder))?;
            return remove_dir_if_there(&aside);
        }
        Err(err) => return Err(can_not(err)),
    }
    remove_dir_if_there(partial)
}

fn remove_dir_if_there(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Error::io("can't remove", path)(err)),
        _ => Ok(()),
    }
}
