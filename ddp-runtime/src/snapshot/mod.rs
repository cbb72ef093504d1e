//! Snapshots of a run: saved whole or not at all, resumed from the newest whole one.

mod load;
mod save;
mod tensors;

use std::fs;
use std::path::{Path, PathBuf};

use ddp_contract::Event;
use ddp_contract::snapshot::{self as format, Whole};
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;

use crate::events::Events;
use crate::optim::Optimizer;
use crate::{Context, Error, ProcessGroup, Result};

/// How far a run has come: what a training loop needs to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch to go on with, from 0.
    pub epoch: u64,
    /// Optimizer steps done, over all epochs.
    pub step: u64,
}

/// The folder that a run's snapshots are in.
///
/// Rank 0 writes (`step-00001200/` with `model.safetensors`, `optimizer.safetensors` and `state.json`); all ranks load.
///
/// ```no_run
/// use ddp_runtime::{Context, Snapshots, optim::{Sgd, SgdOptions}};
/// # fn main() -> Result<(), ddp_runtime::Error> {
/// # let context = Context::init()?;
/// # let vs = tch::nn::VarStore::new(context.device());
/// # let mut optimizer = Sgd::new(&vs, SgdOptions::default());
/// let snapshots = Snapshots::open(&context, "snapshots")?;
/// let mut progress = snapshots.resume(&vs, &mut optimizer)?.unwrap_or_default();
/// while progress.epoch < 10 {
///     // … an epoch of training …
///     progress.epoch += 1;
///     snapshots.save(&vs, &optimizer, progress)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    group: ProcessGroup,
    events: Events,
}

impl Snapshots {
    /// The snapshots in `dir`, which is made if it is missing. What an interrupted save left there is removed.
    ///
    /// Every rank must call it, with the same folder.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder can't be made or read, on every rank.
    pub fn open(context: &Context, dir: impl AsRef<Path>) -> Result<Self> {
        let group = context.group().clone();
        let dir = std::path::absolute(dir.as_ref()).map_err(Error::io("can't find", dir.as_ref()))?;
        let prepared = if group.rank() == 0 { save::prepare(&dir) } else { Ok(()) };
        group.agree("opening the snapshot folder", prepared)?;
        Ok(Self { dir, group, events: context.events().clone() })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Loads the newest whole snapshot, if there is any, into the model and the optimizer of every rank, and says where
    /// it stands. Damaged folders are passed over, with a warning on stderr by rank 0.
    ///
    /// Every rank must call it. Rank 0 chooses, so that all load the same; when one rank can't, none does.
    ///
    /// # Errors
    /// [`Error::NoWholeSnapshot`] when there are folders but none is whole; [`Error::StateMismatch`] when the model or the
    /// optimizer is another; [`Error::Io`].
    pub fn resume(&self, vs: &VarStore, optimizer: &mut impl Optimizer) -> Result<Option<Progress>> {
        let found = if self.group.rank() == 0 { load::choose(&self.dir) } else { Ok(None) };
        let found = self.group.agree("looking for a snapshot", found)?;
        let name = found.and_then(|Whole { folder, .. }| folder.file_name().map(|name| name.to_owned()));
        let name = self.group.broadcast_bytes(name.unwrap_or_default().as_encoded_bytes(), 0)?;
        if name.is_empty() {
            return Ok(None);
        }
        let folder = self.dir.join(String::from_utf8_lossy(&name).as_ref());
        let progress = self.group.agree("loading a snapshot", load::load(&folder, vs, optimizer))?;
        let Progress { epoch, step } = progress;
        self.events.send(&Event::Resumed { snapshot: folder, epoch, step });
        Ok(Some(progress))
    }

    /// Saves the model, the optimizer and `progress` as `step-<progress.step>`: rank 0 writes, the others go on at once.
    ///
    /// The folder appears under its name only when everything in it is on disk. A folder of the same name is replaced.
    ///
    /// # Errors
    /// [`Error::Io`] on rank 0 (no space, no permission); older snapshots are untouched.
    pub fn save(&self, vs: &VarStore, optimizer: &impl Optimizer, progress: Progress) -> Result<()> {
        if self.group.rank() != 0 {
            return Ok(());
        }
        let folder = save::save(&self.dir, vs, optimizer, progress, self.group.world_size())?;
        self.events.send(&Event::SnapshotSaved { snapshot: folder, epoch: progress.epoch, step: progress.step });
        Ok(())
    }

    /// The newest snapshot's folder, whole or not, if there is any.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        Ok(format::list(&self.dir).map_err(Error::io("can't read", &self.dir))?.into_iter().next())
    }
}

/// Makes what was written to `path` (a file's content, a folder's entries) survive a power cut.
fn sync(path: &Path) -> Result<()> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("can't sync", path))
}
