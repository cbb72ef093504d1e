//! Snapshots of a run: saved whole or not at all, resumed from the newest whole one.

mod due;
mod fit;
mod load;
mod pinned;
mod progress;
mod retention;
mod rng;
mod saved;
mod stage;
mod state;
mod tensors;
mod unfinished;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ddp_contract::lock::{Lock, LockError};
use ddp_contract::snapshot::{self as format, Manifest, ValidSnapshot};
use ddp_contract::{Event, env};
use tch::nn::VarStore;
use tch::{Device, Tensor};
use tracing::debug;

pub use progress::Progress;
pub use retention::Goal;
pub use saved::SavedModel;
pub(crate) use state::{Contents, value_name};

use self::retention::{Known, Policy};
use crate::dist::before_save::BeforeSave;
use crate::dist::health::Health;
use crate::dist::resume_point::ResumePoint;
use crate::dist::{carriable, params};
use crate::os::files::check_writable;
use crate::worker::launcher::EventPipe;
use crate::worker::process::process;
use crate::worker::say::say;
use crate::{Context, Error, ProcessGroup, Result};
use due::{Consensus, Due, Request};
use rng::RngState;
use stage::Stage;
use unfinished::{LONG, Unfinished};
use write::{Job, Writing};

/// The folder that a run's snapshots are in.
///
/// A [`Run`](crate::Run) saves to it and resumes from it. Rank 0 writes (`step-00001200/` with `model.safetensors`, `optimizer.safetensors`,
/// `rng.safetensors` and `state.json`), in a thread of its own: the loop pays for a copy of the tensors, whose memory is
/// kept for the next snapshot. All ranks load. A run may go on with another number of ranks.
///
/// One program at a time writes to a folder: rank 0 locks it (`.lock`) when the program is going to save, which is when it
/// [resumes](crate::Run::resume) if it was told when to save, else when it first saves; or when it [asks](Self::lock). A second
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
    consensus: Consensus,
    preemption: bool,
    policy: Policy,
    known: Known,
    health: Health,
    /// Rank 0's, once it was needed.
    lock: Option<Arc<Lock>>,
    /// Whether all ranks know that rank 0 has the lock.
    locked: bool,
    /// Whether the program has said that it will save.
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
    /// The snapshots in `dir`, which is made if it is missing.
    ///
    /// Every rank must call it, with the same folder.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder can't be made or read, on every rank.
    pub fn open(context: &Context, dir: impl AsRef<Path>) -> Result<Self> {
        process().deferred.finish(); // another `Snapshots` of this program may still write
        let group = context.group().clone();
        let dir = std::path::absolute(dir.as_ref()).map_err(Error::io("can't find", dir.as_ref()))?;
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
            consensus: Consensus::default(),
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

    /// Saves every so many steps; 0 is never, as before this is called.
    pub fn every_steps(mut self, steps: u64) -> Self {
        self.due.every_steps = Some(steps);
        self.saves |= steps > 0;
        self
    }

    /// Saves after every so many epochs; 0 is never, as before this is called.
    pub fn every_epochs(mut self, epochs: u64) -> Self {
        self.due.every_epochs = Some(epochs);
        self.saves |= epochs > 0;
        self
    }

    /// Saves when this time has passed since the last snapshot or the start, by rank 0's clock.
    pub fn every(mut self, period: Duration) -> Self {
        self.due.every = Some(period);
        self.saves = true;
        self
    }

    /// Removes all but the newest `count` valid snapshots (at least 1) after each that is saved. Without this, all stay.
    ///
    /// These always stay, too: the one just saved; the one that the run was resumed from, until a newer one is valid; when
    /// the loss or the weights are no longer finite numbers, the newest from before; what a link points to; and damaged
    /// ones that are newer than those, which do not count. What can't be removed stays, with a warning.
    ///
    /// A snapshot that this process has not written is read and verified once, in the background. Later looks compare
    /// sizes and times of its files.
    pub fn keep_last(mut self, count: usize) -> Self {
        self.saves = true;
        self.policy.last = Some(count.max(1));
        self
    }

    /// Of those that [`keep_last`](Self::keep_last) would remove, the `count` with the best
    /// [metric](crate::Run::metric) of all stay.
    pub fn keep_best(mut self, count: usize, goal: Goal) -> Self {
        self.saves = true;
        self.policy.best = Some((count, goal));
        self.policy.last = self.policy.last.or(Some(1));
        self
    }

    /// Makes [`Run::save`](crate::Run::save) return when the snapshot is on disk, instead of writing it while training goes on: off
    /// by default. It also spares the memory of a second snapshot in the making.
    pub fn blocking(mut self, blocking: bool) -> Self {
        self.blocking = blocking;
        self
    }

    /// Whether a snapshot is on the disk itself before it counts: on by default. Off, the kernel writes it when it likes,
    /// as after `torch.save`: it is whole when a process dies, but a power cut may take or damage the newest ones.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Whether [`Run::step_done`](crate::Run::step_done) takes SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 for a request to save and
    /// end: on by default. Before its first call, the signals do what they always do.
    pub fn preemption(mut self, preemption: bool) -> Self {
        self.preemption = preemption;
        self
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
        let found = self.group.agree("looking for a snapshot", found)?;
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

    /// The snapshot to go on from, if there is any; before that, the lock if this program is going to save.
    fn choose(&mut self) -> Result<Option<ValidSnapshot>> {
        if self.saves {
            self.lock_here()?;
        } else if let Some(holder) = Lock::holder(&self.dir) {
            say(format_args!("note: {holder} writes to {}; this program can only read there", self.dir.display()));
        }
        load::choose(&self.dir)
    }

    /// Saves as `step-<progress.step>`: see [`Run::save`](crate::Run::save).
    pub(crate) fn save(&mut self, model: &VarStore, contents: &Contents<'_>, progress: Progress) -> Result<()> {
        let flushed = self.before_save.run();
        let written = self.wait_together()?;
        let optimizer = contents.optimizer.consolidated_state_dict(); // every rank takes part
        let mine = written.and(flushed).and(optimizer).and_then(|optimizer| {
            let job = if self.group.rank() == 0 {
                self.lock_here()?;
                Some(self.job(model, contents, optimizer.into_tensors(), progress)?)
            } else {
                None
            };
            Ok((job, RngState::now(self.device)?))
        });
        let (job, rng) = match mine {
            Ok((job, rng)) => (job, Ok(rng)),
            Err(err) => (None, Err(err)),
        };
        let ranks = self.gather(rng)?;
        self.locked = true;
        if let Some(mut job) = job {
            job.tensors.push((format::RNG, rng::to_tensors(&ranks)?));
            self.writing = Some(job.start(std::mem::take(&mut self.stage))?);
        }
        self.due.restart_clock();
        self.saved_at = Some(progress);
        if self.blocking { self.finish() } else { Ok(()) }
    }

    /// Saves if a step, an epoch or a time that asks for it was passed since the last call, or if the run is asked to stop:
    /// see [`Run::step_done`](crate::Run::step_done).
    pub(crate) fn save_if_due(&mut self, model: &VarStore, contents: &Contents<'_>, progress: Progress) -> Result<()> {
        process().step_done(progress.step);
        if !self.locked {
            self.lock()?;
        }
        self.prepare(model, contents);
        let mut due = self.due.passed(progress);
        let request = self.agree_on_requests()?;
        due |= request.save || request.stop;
        if due {
            self.save(model, contents, progress)?;
        }
        if request.stop {
            self.finish()?;
            let snapshot = self.dir.join(format::folder_name(progress.step));
            debug!(step = progress.step, "asked to stop: all ranks have saved");
            process().preempted(progress.step);
            return Err(Error::Preempted { step: progress.step, snapshot });
        }
        Ok(())
    }

    /// Gets the memory for the copies ready, once, when the optimizer has its state.
    fn prepare(&mut self, model: &VarStore, contents: &Contents<'_>) {
        if !matches!(self.preparing, Preparing::NotYet) || self.group.rank() != 0 {
            return;
        }
        let Ok(optimizer) = contents.optimizer.state_dict() else { return }; // saving reports it
        self.preparing = match Stage::prepare(tensors_of(model, optimizer.into_tensors())) {
            Some(thread) => Preparing::Running(thread),
            None => Preparing::Done, // then the first snapshot gets it
        };
    }

    fn agree_on_requests(&mut self) -> Result<Request> {
        if self.preemption {
            let watched = process().signals.watch();
            watched.map_err(|err| Error::Invalid(format!("can't watch for signals to stop: {err}")))?;
        }
        if !self.preemption && self.due.every.is_none() {
            return Ok(Request::default());
        }
        let save = self.group.rank() == 0 && self.due.interval_elapsed();
        self.consensus.reach(&self.group, Request { save, stop: self.preemption && process().signals.asked() })
    }

    /// Waits until the last snapshot is on disk, on every rank, also beyond the group's timeout. Every rank must call it.
    /// Without it, the program's end does so, and then a failure makes [`ddp_runtime::main`](crate::main) fail.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let written = self.wait_together()?;
        self.group.agree("saving a snapshot", written)
    }

    /// For the end of a run: [saves](Self::save) unless `progress` was saved already, and waits until it is on disk.
    pub(crate) fn finish_at(&mut self, model: &VarStore, contents: &Contents<'_>, progress: Progress) -> Result<()> {
        if self.saved_at != Some(progress) {
            self.save(model, contents, progress)?;
        }
        self.finish()
    }

    /// How far the run had come in the newest snapshot that it has saved or loaded.
    pub(crate) fn saved_at(&self) -> Option<Progress> {
        self.saved_at
    }

    /// Whether snapshots can be saved here, before a step is taken in vain. Every rank must call it.
    pub(crate) fn check_writable(&self) -> Result<()> {
        let written = if self.group.rank() == 0 { write::try_out(&self.dir) } else { Ok(()) };
        self.group.agree("trying to write to the snapshot folder", written)
    }

    /// The newest snapshot's folder, whole or not, if there is any.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        Ok(format::list(&self.dir).map_err(Error::io("can't read", &self.dir))?.into_iter().next())
    }

    /// Waits on all ranks until rank 0 has written the last snapshot, however long that takes: the ranks exchange while they
    /// wait, well within the group's timeout. The inner result is rank 0's; on the other ranks it is `Ok`.
    fn wait_together(&mut self) -> Result<Result<()>> {
        let interval = LONG.min(self.group.timeout() / 4);
        loop {
            let is_done = self.writing.as_ref().is_none_or(|writing| writing.is_done_within(interval));
            let [pending] = self.group.largest("waiting for a snapshot", [i64::from(!is_done)])?;
            if pending == 0 {
                return Ok(self.wait());
            }
        }
    }

    /// Waits for the snapshot that is being written, if any.
    fn wait(&mut self) -> Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let (stage, written) = writing.wait();
        self.stage = stage;
        written
    }

    /// What there is to write, copied.
    fn job(&mut self, model: &VarStore, contents: &Contents<'_>, optimizer: Named, progress: Progress) -> Result<Job> {
        let Progress { epoch, step, samples } = progress;
        let (mut states, mut non_finite) = (BTreeMap::new(), BTreeMap::new());
        for part in &contents.parts {
            for (name, (value, places)) in part.state_dict()?.into_values() {
                if !places.is_empty() {
                    non_finite.insert(name.clone(), places);
                }
                states.insert(name, value);
            }
        }
        let manifest = Manifest {
            format_version: format::FORMAT_VERSION,
            epoch,
            step,
            world_size: self.group.world_size(),
            samples_in_epoch: samples,
            metric: contents.metric.filter(|metric| metric.is_finite()),
            states,
            non_finite,
            non_finite_since: self.health.non_finite_since(),
            bucket_order: self.group.reducers().order(model),
            files: BTreeMap::new(),
        };
        if let Preparing::Running(thread) = std::mem::replace(&mut self.preparing, Preparing::Done) {
            self.stage = thread.join().unwrap_or_default();
        }
        let copy = |(file, tensors)| Ok((file, self.stage.copy(file, tensors)?));
        let tensors = tensors_of(model, optimizer).into_iter().map(copy).collect::<Result<_>>()?;
        Ok(Job {
            dir: self.dir.clone(),
            manifest,
            tensors,
            trained: params::trained(model).into_iter().map(|(name, _)| name).collect(),
            aliases: params::aliases(model),
            policy: self.policy,
            known: self.known.clone(),
            health: self.health.clone(),
            durable: self.durable,
            launcher: self.launcher.clone(),
        })
    }

    /// Every rank's generators, on every rank; or the first error, on every rank.
    fn gather(&self, mine: Result<RngState>) -> Result<Vec<RngState>> {
        let (mine, error) = match mine {
            Ok(state) => (Ok(state), None),
            Err(err) => (Err(err.to_string()), Some(err)),
        };
        let all = self.group.all_gather_value(&mine)?;
        if let Some(err) = error {
            return Err(err);
        }
        let ranks = all.into_iter().enumerate().map(|(rank, state)| {
            state.map_err(|message| Error::OnRank { operation: "saving a snapshot", rank, message })
        });
        ranks.collect()
    }
}

/// Makes the folder.
fn prepare(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("can't make", dir))
}

/// Tensors by name.
type Named = Vec<(String, Tensor)>;

/// What goes into which file.
fn tensors_of(model: &VarStore, optimizer: Named) -> Vec<(&'static str, Named)> {
    vec![(format::MODEL, params::all(model)), (format::OPTIMIZER, optimizer)]
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            process().deferred.defer(Unfinished::new(writing, self.dir.clone(), self.lock.take()));
        }
    }
}
