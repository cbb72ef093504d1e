//! Snapshots of a run: saved completely or not at all, resumed from the newest valid one.
//!
//! | file | what it does |
//! |---|---|
//! | `settings`, `due` | when to save, and what to keep |
//! | `saving` | copies the state, and starts to write it |
//! | `stage`, `pinned`, `write`, `unfinished` | the copy in memory; the thread that writes it |
//! | `load`, `fit`, `saved` | choosing a snapshot, and loading it |
//! | `state`, `tensors`, `rng` | what a snapshot holds |
//! | `retention` | removes old snapshots |

mod due;
mod fit;
mod load;
mod pinned;
mod progress;
mod retention;
mod rng;
mod saved;
mod saving;
mod settings;
mod stage;
mod state;
mod tensors;
mod unfinished;
mod write;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use ddp_contract::lock::{Lock, LockError};
use ddp_contract::snapshot::{self as format, ValidSnapshot};
use ddp_contract::{Event, env};
use tch::Device;
use tch::nn::VarStore;
use tracing::debug;

pub use progress::Progress;
pub use retention::Goal;
pub use saved::SavedModel;
pub(crate) use state::{Contents, value_name};

use self::retention::{Known, Policy};
use crate::dist::before_save::BeforeSave;
use crate::dist::carriable;
use crate::dist::health::Health;
use crate::dist::resume_point::ResumePoint;
use crate::os::files::check_writable;
use crate::worker::launcher::EventPipe;
use crate::worker::process::process;
use crate::worker::say::say;
use crate::{Context, Error, ProcessGroup, Result};
use due::Due;
use stage::Stage;
use unfinished::Unfinished;
use write::Writing;

/// The folder that a run's snapshots are in.
///
/// A [`Run`](crate::Run) saves to it and resumes from it. Rank 0 writes (`step-00001200/` with `model.safetensors`, `optimizer.safetensors`,
/// `rng.safetensors`, `states.safetensors` and `state.json`), in a background thread: the loop pays for a copy of the tensors, whose memory is
/// kept for the next snapshot. All ranks load. A run may resume with another number of ranks.
///
/// One program at a time writes to a folder: rank 0 locks it (`.lock`) when the program is going to save, which is when it
/// [resumes](crate::Run::resume) if it configures when to save, else when it first saves; or when it [asks](Self::lock). A second
/// program then ends with [`Error::SnapshotsInUse`]. A program that only reads changes nothing in the folder.
///
/// ```no_run
/// use std::time::Duration;
/// use ddp_runtime::optim::{Sgd, SgdOptions};
/// use ddp_runtime::{Goal, Context, Run, Snapshots};
/// # fn main() -> ddp_runtime::Result<()> {
/// # let context = Context::init()?;
/// # let vs = tch::nn::VarStore::new(context.device());
/// # let _model = tch::nn::linear(vs.root(), 2, 1, Default::default());
/// let snapshots = Snapshots::open(&context, "snapshots")?
///     .every_steps(500)
///     .every(Duration::from_secs(600))
///     .every_epochs(1)
///     .keep_last(3)
///     .keep_best(1, Goal::Minimize);
/// let run = Run::new(&context, &vs, Sgd::new(&vs, SgdOptions::default())).snapshots(snapshots);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    group: ProcessGroup,
    device: Device,
    launcher: EventPipe,
    before_save: BeforeSave,
    resume_point: ResumePoint,
    due: Due,
    preemption: bool,
    policy: Policy,
    known: Known,
    health: Health,
    /// Rank 0's, once it was needed.
    lock: Option<Arc<Lock>>,
    /// Whether all ranks know that rank 0 has the lock.
    locked: bool,
    /// Whether the program will save.
    saves: bool,
    blocking: bool,
    durable: bool,
    /// What the newest snapshot holds, if this run made or loaded it.
    saved_at: Option<Progress>,
    /// Rank 0's.
    writing: Option<Writing>,
    stage: Stage,
    /// The memory for the first snapshot, while it is made ready.
    preparing: Preparing,
}

#[derive(Debug)]
enum Preparing {
    NotYet,
    Running(JoinHandle<Stage>),
    Done,
}

impl Snapshots {
    /// The snapshots in `dir`, which is created if it is missing.
    ///
    /// Every rank must call it, with the same folder. In a job of `cargo ddp run --at-step`, a folder in the run's own directory
    /// takes the place of `dir`, which stays unchanged.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder can't be created or read, on every rank.
    pub fn open(context: &Context, dir: impl AsRef<Path>) -> Result<Self> {
        process().deferred.finish(); // another `Snapshots` of this program may still write
        let group = context.group().clone();
        let dir = context.at_step().map_or(dir.as_ref(), |at_step| &at_step.dir);
        let dir = std::path::absolute(dir).map_err(Error::io("can't resolve", dir))?;
        let prepared = if group.rank() == 0 { prepare(&dir) } else { Ok(()) };
        group.agree("opening the snapshot folder", prepared)?;
        Ok(Self {
            dir,
            group,
            device: context.device(),
            launcher: context.launcher().clone(),
            before_save: context.before_save().clone(),
            resume_point: context.resume_point().clone(),
            due: Due::default(),
            preemption: true,
            policy: Policy::default(),
            known: Known::default(),
            health: context.health().clone(),
            lock: None,
            locked: false,
            saves: false,
            blocking: false,
            durable: true,
            saved_at: None,
            writing: None,
            stage: Stage::default(),
            preparing: Preparing::NotYet,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Loads the newest valid snapshot: see [`Run::resume`](crate::Run::resume).
    pub(crate) fn resume(&mut self, model: &VarStore, contents: &mut Contents<'_>) -> Result<Option<Progress>> {
        carriable::check_saved(model, &tensors::kinds())?;
        if self.due.is_asked_for() {
            self.check_writable()?;
        } else if let Err(err) = check_writable(&self.dir)
            && self.group.rank() == 0
        {
            say(format_args!("note: this program can't save snapshots in {}: {err}", self.dir.display()));
        }
        let found = if self.group.rank() == 0 { self.choose() } else { Ok(None) };
        let found = self.group.agree("searching for a snapshot", found)?;
        self.locked |= self.saves;
        if let Some(ValidSnapshot { folder, .. }) = &found {
            self.known.resumed(folder);
        }
        let name =
            found.as_ref().and_then(|ValidSnapshot { folder, .. }| folder.file_name().map(|name| name.to_owned()));
        let name = self.group.broadcast_bytes(name.unwrap_or_default().as_encoded_bytes(), 0)?;
        if name.is_empty() {
            return Ok(None);
        }
        let folder = self.dir.join(String::from_utf8_lossy(&name).as_ref());
        let manifest = load::read(&folder, format::read_manifest);
        let since = manifest.as_ref().ok().and_then(|manifest| manifest.non_finite_since);
        let loaded = manifest.and_then(|manifest| {
            let progress = load::load(&folder, &manifest, model, contents, self.group.rank(), self.device)?;
            self.group.reducers().set_order(model, manifest.bucket_order);
            Ok(progress)
        });
        let progress = self.group.agree("loading a snapshot", loaded)?;
        drop(found); // until here, no other program removes it
        let Progress { epoch, step, .. } = progress;
        self.health.resumed(since);
        self.due.resumed(progress);
        self.saved_at = Some(progress);
        debug!(snapshot = %folder.display(), epoch, step, "resumed");
        self.resume_point.set(step);
        self.launcher.send(&Event::Resumed { snapshot: folder, epoch, step });
        Ok(Some(progress))
    }

    /// Locks the folder for this program, which is otherwise done when the program first saves. Call it before training if
    /// the program [saves](crate::Run::save) only when it decides so itself. Every rank must call it.
    ///
    /// # Errors
    /// [`Error::SnapshotsInUse`] when another program has locked it; [`Error::Io`] when the folder can't be written to.
    pub fn lock(&mut self) -> Result<()> {
        self.saves = true;
        let locked = if self.group.rank() == 0 { self.lock_here() } else { Ok(()) };
        self.group.agree("locking the snapshot folder", locked)?;
        self.locked = true;
        Ok(())
    }

    /// This program is going to save.
    pub(crate) fn saves(mut self) -> Self {
        self.saves = true;
        self
    }

    /// Rank 0's part of it.
    fn lock_here(&mut self) -> Result<()> {
        if self.lock.as_ref().is_some_and(|lock| lock.is_held()) {
            return Ok(());
        }
        let run = std::env::var(env::RUN_ID).ok();
        // torchrun's name for every run that was given none is "none".
        let run = run.as_deref().filter(|run| !run.is_empty() && *run != "none");
        self.lock = Some(Lock::acquire(&self.dir, run).map_err(|err| match err {
            LockError::Io(source) => Error::writing(&self.dir.join(ddp_contract::lock::FILE))(source),
            held => Error::SnapshotsInUse { dir: self.dir.clone(), problem: held.to_string() },
        })?);
        Ok(())
    }

    /// The snapshot to resume from, if there is one; before that, the lock if this program is going to save.
    fn choose(&mut self) -> Result<Option<ValidSnapshot>> {
        if self.saves {
            self.lock_here()?;
        } else if let Some(holder) = Lock::holder(&self.dir) {
            say(format_args!(
                "note: {holder} is writing to {}; this program can only read from it",
                self.dir.display()
            ));
        }
        load::choose(&self.dir)
    }

    /// The progress of the run in the newest snapshot that it has saved or loaded.
    pub(crate) fn saved_at(&self) -> Option<Progress> {
        self.saved_at
    }

    /// Checks that snapshots can be saved here, before time is spent on a step. Every rank must call it.
    pub(crate) fn check_writable(&self) -> Result<()> {
        let written = if self.group.rank() == 0 { write::try_out(&self.dir) } else { Ok(()) };
        self.group.agree("trying to write to the snapshot folder", written)
    }

    /// The newest snapshot's folder, valid or not, if there is one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        Ok(format::list(&self.dir).map_err(Error::io("can't read", &self.dir))?.into_iter().next())
    }
}

/// Creates the folder.
fn prepare(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("can't create", dir))
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            process().deferred.defer(Unfinished::new(writing, self.dir.clone(), self.lock.take()));
        }
    }
}
