//! Snapshots of a run: saved whole or not at all, resumed from the newest whole one.

mod due;
mod fit;
mod floats;
mod keep;
mod load;
mod pinned;
mod progress;
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
use ddp_contract::snapshot::{self as format, Manifest, Whole};
use ddp_contract::{Event, env};
use tch::{Device, Tensor};
use tracing::debug;

pub use keep::Best;
pub use progress::Progress;
pub use saved::SavedModel;
pub use state::{State, StateMut};

use crate::dist::before_save::BeforeSave;
use crate::dist::health::Health;
use crate::dist::resume_point::ResumePoint;
use crate::dist::{carriable, params};
use crate::os::files::check_writable;
use crate::worker::launcher::EventPipe;
use crate::worker::process::process;
use crate::worker::say::say;
use crate::{Context, Error, ProcessGroup, Result};
use due::{Agreement, Due, Wish};
use keep::{Keep, Known};
use rng::RngState;
use stage::Stage;
use unfinished::{LONG, Unfinished};
use write::{Job, Writing};

/// The folder that a run's snapshots are in.
///
/// All ranks make the calls; rank 0 writes (`step-00001200/` with `model.safetensors`, `optimizer.safetensors`,
/// `rng.safetensors` and `state.json`), in a thread of its own: the loop pays for a copy of the tensors, whose memory is
/// kept for the next snapshot. All ranks load. A run may go on with another number of ranks.
///
/// One program at a time writes to a folder: rank 0 locks it (`.lock`) when the program is going to save, which is when it
/// [resumes](Self::resume) if it was told when to save, else when it first saves; or when it [asks](Self::lock). A second
/// program then ends with [`Error::SnapshotsInUse`]. A program that only reads changes nothing in the folder.
///
/// ```no_run
/// use std::time::Duration;
/// use ddp_runtime::data::{DataLoader, TensorDataset};
/// use ddp_runtime::lr_scheduler::{CosineAnnealing, CosineAnnealingLr, LrScheduler};
/// use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
/// use ddp_runtime::{Best, Context, Ddp, Snapshots, State, StateMut};
/// # fn main() -> Result<(), ddp_runtime::Error> {
/// # let context = Context::init()?;
/// # let vs = tch::nn::VarStore::new(context.device());
/// # let model = tch::nn::linear(vs.root(), 2, 1, Default::default());
/// # use tch::nn::Module;
/// # let x = tch::Tensor::randn([100, 2], tch::kind::FLOAT_CPU);
/// let ddp = Ddp::new(context.group(), &vs)?;
/// let mut optimizer = Sgd::new(&vs, SgdOptions::default());
/// let mut scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(1000))?;
/// let mut loader = DataLoader::new(&context, TensorDataset::new(x)?, 8)?;
/// let mut seen = 0u64; // anything that serde knows
///
/// let mut snapshots = Snapshots::open(&context, "snapshots")?
///     .every_steps(500)
///     .every(Duration::from_secs(600))
///     .every_epochs(1)
///     .keep_last(3);
/// let state = StateMut::new(&vs, &mut optimizer).scheduler(&mut scheduler).value("seen", &mut seen);
/// let mut progress = snapshots.resume(state)?.unwrap_or_default();
/// loader.resume_at(progress.epoch, progress.samples);
/// while progress.epoch < 10 {
///     for batch in loader.epoch(progress.epoch)? {
///         let batch = batch?;
///         optimizer.zero_grad()?;
///         ddp.backward(&ddp.forward(|| model.forward(&batch).square().mean(tch::Kind::Float))?)?;
///         optimizer.step()?;
///         scheduler.step(&mut optimizer)?;
///         seen += batch.size()[0] as u64;
///         progress.step += 1;
///         progress.samples = loader.position().samples;
///         // Also when the run is told to stop: then `?` leaves the loop, and the process ends with code 75.
///         let state = State::new(&vs, &optimizer).scheduler(&scheduler).value("seen", &seen);
///         snapshots.save_if_due(&state, progress)?;
///     }
///     (progress.epoch, progress.samples) = (progress.epoch + 1, 0);
///     let state = State::new(&vs, &optimizer).scheduler(&scheduler).value("seen", &seen);
///     snapshots.save_if_due(&state, progress)?;
/// }
/// let state = State::new(&vs, &optimizer).scheduler(&scheduler).value("seen", &seen);
/// snapshots.finish_at(&state, progress)?;
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
    agreement: Agreement,
    preemption: bool,
    keep: Keep,
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
            agreement: Agreement::default(),
            preemption: true,
            keep: Keep::default(),
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

    /// [`save_if_due`](Self::save_if_due) saves every so many steps; 0 is never, as before this is called.
    pub fn every_steps(mut self, steps: u64) -> Self {
        self.due.every_steps = Some(steps);
        self.saves |= steps > 0;
        self
    }

    /// [`save_if_due`](Self::save_if_due) saves after every so many epochs; 0 is never, as before this is called.
    pub fn every_epochs(mut self, epochs: u64) -> Self {
        self.due.every_epochs = Some(epochs);
        self.saves |= epochs > 0;
        self
    }

    /// [`save_if_due`](Self::save_if_due) saves when this time has passed since the last snapshot or the start, by rank
    /// 0's clock.
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
        self.keep.last = Some(count.max(1));
        self
    }

    /// Of those that [`keep_last`](Self::keep_last) would remove, the `count` with the best
    /// [metric](State::metric) of all stay.
    pub fn keep_best(mut self, count: usize, best: Best) -> Self {
        self.saves = true;
        self.keep.best = Some((count, best));
        self.keep.last = self.keep.last.or(Some(1));
        self
    }

    /// Makes [`save`](Self::save) return when the snapshot is on disk, instead of writing it while training goes on: off
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

    /// Whether [`save_if_due`](Self::save_if_due) takes SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 for a request to save and
    /// leave: on by default. Without a call of it, the signals do what they always do.
    pub fn preemption(mut self, preemption: bool) -> Self {
        self.preemption = preemption;
        self
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Loads the newest whole snapshot, if there is any, on every rank, and says where it stands. Damaged folders are
    /// passed over, with a warning on stderr by rank 0.
    ///
    /// A snapshot without an optimizer, as `cargo ddp snapshot import` makes one of a model from elsewhere, gives its
    /// weights only: the optimizer, schedulers, scaler, values and random numbers stay as they are, and the run begins
    /// at its first step.
    ///
    /// A rank that was not there when it was saved gets random numbers of its own, the same in each such resume.
    ///
    /// Every rank must call it. Rank 0 chooses, so that all load the same; when one rank can't, none goes on.
    ///
    /// # Errors
    /// [`Error::SnapshotsInUse`] when this program is going to save, and another one does; [`Error::NoWholeSnapshot`] when
    /// there are folders but none is whole; [`Error::StateMismatch`] when the model, the optimizer or another part is
    /// another, or was not saved; [`Error::Invalid`] for tensors that no snapshot can hold, by name; [`Error::Io`], also
    /// when [`every_steps`](Self::every_steps) or its like asks for snapshots and the folder can't be written to.
    pub fn resume(&mut self, state: StateMut<'_>) -> Result<Option<Progress>> {
        carriable::check_saved(state.model, &tensors::kinds())?;
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
        if let Some(Whole { folder, .. }) = &found {
            self.known.resumed(folder);
        }
        let name = found.as_ref().and_then(|Whole { folder, .. }| folder.file_name().map(|name| name.to_owned()));
        let name = self.group.broadcast_bytes(name.unwrap_or_default().as_encoded_bytes(), 0)?;
        if name.is_empty() {
            return Ok(None);
        }
        let folder = self.dir.join(String::from_utf8_lossy(&name).as_ref());
        let manifest = load::read(&folder, format::read_manifest);
        let since = manifest.as_ref().ok().and_then(|manifest| manifest.non_finite_since);
        let model = state.model;
        let loaded = manifest.and_then(|manifest| {
            let progress = load::load(&folder, &manifest, state, self.group.rank(), self.device)?;
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
    /// the program [saves](Self::save) only when it decides so itself. Every rank must call it.
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
    fn choose(&mut self) -> Result<Option<Whole>> {
        if self.saves {
            self.lock_here()?;
        } else if let Some(holder) = Lock::holder(&self.dir) {
            say(format_args!("note: {holder} writes to {}; this program can only read there", self.dir.display()));
        }
        load::choose(&self.dir)
    }

    /// Saves `state` and `progress` as `step-<progress.step>`. Every rank must call it.
    ///
    /// Rank 0 copies the tensors, and writes them while training goes on; the folder appears under its name only when
    /// everything in it is on disk, and replaces one of the same name. It first waits for the snapshot before.
    ///
    /// Tensors on a GPU are copied to pinned memory by the GPU: the call returns before that, and the work that follows on
    /// the GPU waits for the copy. With open [`Metrics`](crate::metrics::Metrics), and with a scaler in the state, the call
    /// waits for the GPU: the values are read first.
    ///
    /// # Errors
    /// On every rank: [`Error::DiskFull`] and [`Error::Io`] of the snapshot *before* (of this one, too, when
    /// [`blocking`](Self::blocking)); older snapshots are untouched. [`Error::Invalid`] for what can't be saved.
    /// [`Error::SnapshotsInUse`] when another program writes there.
    pub fn save(&mut self, state: &State<'_>, progress: Progress) -> Result<()> {
        let flushed = self.before_save.run();
        let written = self.wait_together()?;
        let optimizer = state.optimizer.consolidated_state_dict(); // every rank takes part
        let mine = written.and(flushed).and(optimizer).and_then(|optimizer| {
            let job = if self.group.rank() == 0 {
                self.lock_here()?;
                Some(self.job(state, optimizer, progress)?)
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

    /// [Saves](Self::save) if a step, an epoch or a time that asks for it was passed since the last call. Gives whether it
    /// did. Call it after each step, and after each epoch if [`every_epochs`](Self::every_epochs) was asked for.
    ///
    /// From the first call on, SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 to any rank make all ranks save at one step and leave. A
    /// second SIGINT ends the process immediately, a second SIGTERM as soon as no snapshot is being written. Every rank must
    /// make the same calls: not in [`Ddp::join`](crate::Ddp::join).
    ///
    /// # Errors
    /// [`Error::Preempted`] when it saved in order to leave: the snapshot is on disk then, and
    /// [`ddp_runtime::main`](crate::main) ends the process with code 75. Those of [`save`](Self::save).
    pub fn save_if_due(&mut self, state: &State<'_>, progress: Progress) -> Result<bool> {
        process().step_done(progress.step);
        if !self.locked {
            self.lock()?;
        }
        self.prepare(state);
        let mut due = self.due.passed(progress);
        let wish = self.agree_on_wishes()?;
        due |= wish.save || wish.stop;
        if due {
            self.save(state, progress)?;
        }
        if wish.stop {
            self.finish()?;
            let snapshot = self.dir.join(format::folder_name(progress.step));
            debug!(step = progress.step, "asked to stop: all ranks have saved");
            process().preempted(progress.step);
            return Err(Error::Preempted { step: progress.step, snapshot });
        }
        Ok(due)
    }

    /// Gets the memory for the copies ready, once, when the optimizer has its state.
    fn prepare(&mut self, state: &State<'_>) {
        if !matches!(self.preparing, Preparing::NotYet) || self.group.rank() != 0 {
            return;
        }
        self.preparing = match Stage::prepare(tensors_of(state, state.optimizer.state_dict())) {
            Some(thread) => Preparing::Running(thread),
            None => Preparing::Done, // then the first snapshot gets it
        };
    }

    fn agree_on_wishes(&mut self) -> Result<Wish> {
        if self.preemption {
            let watched = process().signals.watch();
            watched.map_err(|err| Error::Invalid(format!("can't watch for signals to stop: {err}")))?;
        }
        if !self.preemption && self.due.every.is_none() {
            return Ok(Wish::default());
        }
        let save = self.group.rank() == 0 && self.due.is_time();
        self.agreement.reach(&self.group, Wish { save, stop: self.preemption && process().signals.asked() })
    }

    /// Waits until the last snapshot is on disk, on every rank, also beyond the group's timeout. Every rank must call it.
    /// Without it, the program's end does so, and then a failure makes [`ddp_runtime::main`](crate::main) fail.
    ///
    /// # Errors
    /// Rank 0's, on every rank: [`Error::DiskFull`] or [`Error::Io`]; older snapshots are untouched.
    pub fn finish(&mut self) -> Result<()> {
        let written = self.wait_together()?;
        self.group.agree("saving a snapshot", written)
    }

    /// For the end of a run: [saves](Self::save) unless `progress` was saved already, and waits until it is on disk. Every
    /// rank must call it.
    ///
    /// # Errors
    /// Those of [`save`](Self::save) and [`finish`](Self::finish).
    pub fn finish_at(&mut self, state: &State<'_>, progress: Progress) -> Result<()> {
        if self.saved_at != Some(progress) {
            self.save(state, progress)?;
        }
        self.finish()
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
    fn job(&mut self, state: &State<'_>, optimizer: Named, progress: Progress) -> Result<Job> {
        let Progress { epoch, step, samples } = progress;
        let (mut states, mut non_finite) = (BTreeMap::new(), BTreeMap::new());
        for (name, save) in &state.parts {
            let (value, places) = save()?;
            if !places.is_empty() {
                non_finite.insert(name.clone(), places);
            }
            states.insert(name.clone(), value);
        }
        let manifest = Manifest {
            format_version: format::FORMAT_VERSION,
            epoch,
            step,
            world_size: self.group.world_size(),
            samples_in_epoch: samples,
            metric: state.metric,
            states,
            non_finite,
            non_finite_since: self.health.non_finite_since(),
            bucket_order: self.group.reducers().order(state.model),
            files: BTreeMap::new(),
        };
        if let Preparing::Running(thread) = std::mem::replace(&mut self.preparing, Preparing::Done) {
            self.stage = thread.join().unwrap_or_default();
        }
        let copy = |(file, tensors)| Ok((file, self.stage.copy(file, tensors)?));
        let tensors = tensors_of(state, optimizer).into_iter().map(copy).collect::<Result<_>>()?;
        Ok(Job {
            dir: self.dir.clone(),
            manifest,
            tensors,
            trained: params::trained(state.model).into_iter().map(|(name, _)| name).collect(),
            aliases: params::aliases(state.model),
            keep: self.keep,
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
fn tensors_of(state: &State<'_>, optimizer: Named) -> Vec<(&'static str, Named)> {
    vec![(format::MODEL, params::all(state.model)), (format::OPTIMIZER, optimizer)]
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            process().deferred.defer(Unfinished::new(writing, self.dir.clone(), self.lock.take()));
        }
    }
}
