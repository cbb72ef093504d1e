//! Writes a snapshot: complete or absent.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ddp_contract::Event;
use ddp_contract::retention::{self, Goal, is_taken};
use ddp_contract::snapshot::{self as format, FileInfo, Manifest, PARTIAL, SnapshotError};
use tracing::{debug, info_span};

use super::retention::{Known, Policy};
use super::stage::Stage;
use super::tensors::{self, HostTensor};
use crate::dist::health::Health;
use crate::os::files::exchange;
use crate::worker::launcher::EventPipe;
use crate::worker::process::process;
use crate::worker::say::say;
use crate::{Error, Result};

/// Whether a folder can be made in `dir`.
pub(super) fn try_out(dir: &Path) -> Result<()> {
    let probe = dir.join(format!(".step-probe-{}{PARTIAL}", std::process::id()));
    fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).map_err(Error::io("can't save snapshots in", dir))
}

/// Everything that a snapshot holds, apart from the run.
pub(super) struct PendingSnapshot {
    pub(super) dir: PathBuf,
    /// All but the files.
    pub(super) manifest: Manifest,
    pub(super) tensors: Vec<(&'static str, Vec<HostTensor>)>,
    /// The parameters that are trained: they should be finite numbers.
    pub(super) trained: HashSet<String>,
    /// Further names of the model's tensors.
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) policy: Policy,
    pub(super) known: Known,
    pub(super) health: Health,
    /// Wait for the disk before the snapshot gets its name.
    pub(super) durable: bool,
    pub(super) launcher: EventPipe,
}

/// A snapshot that is being written in its own thread.
pub(super) struct Writing {
    thread: JoinHandle<(Stage, Result<()>)>,
    /// Closed when the thread is done.
    done: Receiver<()>,
}

impl PendingSnapshot {
    pub(super) fn start(self, stage: Stage) -> Result<Writing> {
        let dir = self.dir.clone();
        let (alive, done) = mpsc::channel::<()>();
        let guard = process().signals.begin_writing();
        let Manifest { epoch, step, .. } = self.manifest;
        let span = info_span!("snapshot", epoch, step, dir = %dir.display());
        let run = move || {
            let _alive = alive;
            let _guard = guard;
            span.in_scope(|| self.run(stage))
        };
        let spawned = thread::Builder::new().name("ddp-snapshot".into()).spawn(run);
        let thread = spawned.map_err(Error::io("can't start a thread to write to", dir))?;
        Ok(Writing { thread, done })
    }

    fn run(mut self, mut stage: Stage) -> (Stage, Result<()>) {
        let copied = stage.wait();
        let written = copied.and_then(|()| {
            self.check_weights();
            self.write()
        });
        match &written {
            Ok(folder) => debug!(snapshot = %folder.display(), "snapshot saved"),
            Err(err) => debug!(error = %err, "snapshot not saved"),
        }
        let result = written.map(|folder| {
            let Manifest { epoch, step, metric, .. } = self.manifest;
            let lower_is_better = self.policy.best.map(|(_, best)| best == Goal::Minimize);
            self.known.is_valid(&folder);
            self.launcher.send(&Event::SnapshotSaved {
                snapshot: folder.clone(),
                epoch,
                step,
                metric,
                lower_is_better,
            });
            self.known.prune(self.policy, &self.dir, &folder);
        });
        for (file, tensors) in self.tensors {
            stage.recycle(file, tensors);
        }
        (stage, result)
    }

    /// Notes weights that are not finite numbers, and buffers with a NaN (a mask may hold infinite values). The losses are
    /// noted already: training continues meanwhile, and what it sees now does not belong to this snapshot.
    fn check_weights(&mut self) {
        let mut model = self.tensors.iter().filter(|(file, _)| *file == format::MODEL).flat_map(|(_, tensors)| tensors);
        let is_bad = |tensor: &&HostTensor| match self.trained.contains(tensor.name()) {
            true => !tensor.is_finite(),
            false => tensor.has_nan(),
        };
        if let Some(tensor) = model.find(is_bad) {
            self.health.see_weights(self.manifest.step, tensor.name());
            self.manifest.non_finite_since.get_or_insert(self.manifest.step);
        }
    }

    /// Writes the snapshot, and returns its folder.
    fn write(&self) -> Result<PathBuf> {
        self.known.clean(&self.dir);
        let partial = self.new_partial()?;
        if let Err(err) = self.write_files(&partial) {
            // A disk that is full gets its space back; if that fails too, the next run removes it.
            let _ = fs::remove_dir_all(&partial);
            return Err(err);
        }
        let folder = self.publish(&partial)?;
        self.sync(&self.dir)?;
        Ok(folder)
    }

    /// A new folder to write to. What can't be removed from an earlier save may have the first name.
    fn new_partial(&self) -> Result<PathBuf> {
        let name = format::folder_name(self.manifest.step);
        let mut number = 0;
        loop {
            let dots = if number == 0 { String::new() } else { format!(".{number}") };
            let partial = self.dir.join(format!(".{name}{dots}{PARTIAL}"));
            let made = fs::create_dir(&partial);
            match made {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists && number < 8 => {
                    self.known.discard(&partial);
                    // Once more under this name if it is free now.
                    number += u32::from(partial.symlink_metadata().is_ok());
                }
                made => return made.map(|()| partial.clone()).map_err(Error::writing(&partial)),
            }
        }
    }

    fn write_files(&self, partial: &Path) -> Result<()> {
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

    /// Gives the complete snapshot in `partial` its name, and returns it. A snapshot of the same name (of a run that was
    /// restarted at an earlier step, damaged, or saved twice at one step) is exchanged for it. Where directories can't be
    /// exchanged, and where something else has the name, the new snapshot gets a name with more zeros, which counts as newer.
    /// At every moment one of the two exists, complete.
    fn publish(&self, partial: &Path) -> Result<PathBuf> {
        let mut old = None;
        for folder in self.names() {
            match self.rename(partial, &folder) {
                Ok(()) => return Ok(self.settle(folder, old)),
                Err(err) if !is_taken(&err) => return Err(Error::writing(&folder)(err)),
                Err(_) if !is_replaceable(&folder) => {}
                Err(_) if exchange(partial, &folder).is_ok() => {
                    self.known.discard(partial);
                    return Ok(self.settle(folder, None));
                }
                Err(_) => old = Some(folder),
            }
        }
        Err(Error::writing(partial)(io::ErrorKind::AlreadyExists.into()))
    }

    /// Removes what the snapshot in `folder` replaces: `old`, whose name it then gets, and those with more zeros.
    fn settle(&self, folder: PathBuf, old: Option<PathBuf>) -> PathBuf {
        let folder = match old {
            Some(old) if retention::remove(&old).is_ok() && fs::rename(&folder, &old).is_ok() => old,
            _ => folder,
        };
        for longer in self.names().skip_while(|name| *name != folder).skip(1).filter(|name| is_replaceable(name)) {
            let _ = retention::remove(&longer);
        }
        let usual = self.dir.join(format::folder_name(self.manifest.step));
        if folder != usual {
            let (usual, name) = (usual.display(), folder.display());
            say(format_args!("warning: can't replace {usual}; the snapshot of this step is {name}"));
        }
        folder
    }

    fn names(&self) -> impl Iterator<Item = PathBuf> {
        format::folder_names(self.manifest.step).map(|name| self.dir.join(name))
    }

    /// Renames a complete snapshot, unless there is something under the new name. Where directories can't be renamed (some
    /// overlayfs), its files are, one after the other: it is a snapshot once its manifest exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match fs::rename(from, to) {
            Err(err) if err.kind() == io::ErrorKind::CrossesDevices => {}
            renamed => return renamed,
        }
        fs::create_dir(to)?;
        for (file, _) in &self.tensors {
            fs::rename(from.join(file), to.join(file))?;
        }
        if self.durable {
            fs::File::open(to)?.sync_all()?;
        }
        fs::rename(from.join(format::MANIFEST), to.join(format::MANIFEST))?;
        if self.durable {
            fs::File::open(to)?.sync_all()?;
        }
        self.known.discard(from);
        Ok(())
    }

    /// Makes what was written to `path` (a file's content, a folder's entries) survive a power cut.
    fn sync(&self, path: &Path) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        match fs::File::open(path).and_then(|file| file.sync_all()) {
            // Some file systems can't sync a directory.
            Err(err)
                if matches!(err.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) && path.is_dir() =>
            {
                Ok(())
            }
            synced => synced.map_err(Error::io("can't sync", path)),
        }
    }
}

/// Whether `folder` is a snapshot of this format, valid or damaged. A link, a directory of something else, what a later
/// version wrote and what can't be read at the moment are not.
fn is_replaceable(folder: &Path) -> bool {
    let is_directory = fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir());
    is_directory && matches!(format::read_manifest(folder), Ok(_) | Err(SnapshotError::ManifestChecksum))
}

impl Writing {
    /// Waits for the end.
    pub(super) fn wait(self) -> (Stage, Result<()>) {
        let panicked = |_| (Stage::default(), Err(Error::Invalid("the thread that writes snapshots panicked".into())));
        self.thread.join().unwrap_or_else(panicked)
    }

    /// Waits for the end, at most this long, and returns whether it came.
    pub(super) fn is_done_within(&self, limit: Duration) -> bool {
        self.done.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writing")
    }
}
