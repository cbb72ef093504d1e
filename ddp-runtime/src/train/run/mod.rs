//! A training run: what a snapshot holds, its progress, and what it reports.

mod at_step;
mod course;
mod resumable;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::nn::VarStore;

pub use resumable::Resumable;

use crate::metrics::{Metrics, Value};
use crate::snapshot::{Contents, value_name};
use crate::train::amp::GradScaler;
use crate::train::optim::Optimizer;
use crate::worker::debug;
use crate::{Context, Progress, Result, Snapshots, StateDict, Stateful, StepReport};
use course::Course;
pub(crate) use course::at_hand;

/// A training run: owns what a snapshot holds, counts steps and epochs, reports to the launcher, logs, and saves.
///
/// The loop keeps what a reader looks for: forward, backward, and the optimizer's step. Every rank makes the same calls.
///
/// ```
/// use ddp_runtime::data::{DataLoader, TensorDataset};
/// use ddp_runtime::lr_scheduler::{CosineAnnealing, CosineAnnealingLr, LrScheduler};
/// use ddp_runtime::optim::{Optimizer, Sgd, SgdOptions};
/// use ddp_runtime::{Context, Ddp, Mean, Run, Snapshots};
/// use tch::nn::{self, Module};
/// use tch::{Kind, Tensor};
///
/// # fn main() -> ddp_runtime::Result<()> {
/// # let folder = tempfile::tempdir().map_err(ddp_runtime::Error::other)?;
/// # let snapshots = folder.path();
/// let context = Context::init()?;
/// let mut train = DataLoader::new(&context, TensorDataset::new(Tensor::randn([64, 2], (Kind::Float, context.device())))?, 8)?;
/// let vs = nn::VarStore::new(context.device());
/// let model = nn::linear(vs.root(), 2, 1, Default::default());
/// let ddp = Ddp::new(context.group(), &vs)?;
/// let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 0.03, ..Default::default() });
/// let scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(16))?;
///
/// let mut run = Run::new(&context, &vs, optimizer)
///     .scheduler(scheduler)
///     .value("seen", 0u64) // anything that serde can write
///     .snapshots(Snapshots::open(&context, snapshots)?.every_epochs(1).keep_last(2))
///     .resume(&mut train)?; // from the newest valid snapshot, or from scratch
/// while let Some(epoch) = run.next_epoch(2) {
///     let mut losses = Mean::new();
///     for batch in train.epoch(epoch)? {
///         let x = batch?;
///         run.optimizer.zero_grad()?;
///         let loss = ddp.forward(|| model.forward(&x).square().mean(Kind::Float))?;
///         ddp.backward(&loss)?; // gradients are all-reduced while backward runs
///         run.optimizer.step()?;
///         run.scheduler.step(&mut run.optimizer)?;
///         run.value += x.size()[0] as u64;
///         losses.add(&loss)?;
///         run.step_done(&train)?; // counts, reports, and saves if it is time or the run is asked to stop
///     }
///     run.log("loss", losses.over_ranks(context.group())?)?;
///     run.epoch_done()?;
/// }
/// run.finish()?;
/// assert_eq!((run.step(), run.value), (16, 128));
/// # Ok(())
/// # }
/// ```
///
/// # What a snapshot holds
/// The model, the optimizer, the scheduler, the scaler and the value, the progress of the run, and the state of every rank's
/// random number generators. With [`snapshots`](Self::snapshots) it is saved when they are due, when the run is asked to stop
/// (SIGTERM, SIGINT, SIGUSR1), and by [`finish`](Self::finish).
#[must_use = "a run does nothing until its steps are counted"]
pub struct Run<O, S = (), V = (), C = ()> {
    /// The optimizer.
    pub optimizer: O,
    /// The learning rate scheduler that [`scheduler`](Self::scheduler) was given.
    pub scheduler: S,
    /// The value that [`value`](Self::value) was given.
    pub value: V,
    /// The gradient scaler that [`scaler`](Self::scaler) was given.
    pub scaler: C,
    /// Where the value is in a snapshot.
    value_name: Option<String>,
    course: Course,
}

/// A value as a part of a snapshot.
struct Named<'a, V> {
    name: Option<&'a str>,
    value: &'a mut V,
}

impl<V: Serialize + DeserializeOwned> Stateful for Named<'_, V> {
    fn state_dict(&self) -> Result<StateDict> {
        self.name.map_or_else(|| Ok(StateDict::new()), |name| StateDict::new().with(name, self.value))
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let loaded = self.name.map_or(Ok(None), |name| state.get(name))?;
        loaded.into_iter().for_each(|loaded| *self.value = loaded);
        Ok(())
    }
}

/// `$contents` are what a snapshot holds of `$run`; its `course` can be used next to them.
macro_rules! contents {
    ($run:ident, $contents:ident) => {
        let mut value = Named { name: $run.value_name.as_deref(), value: &mut $run.value };
        let mut $contents = Contents {
            optimizer: &mut $run.optimizer,
            parts: vec![&mut $run.scheduler, &mut $run.scaler, &mut value],
            metric: None,
        };
    };
}

impl<O: Optimizer> Run<O> {
    /// A run that trains the model in `vs` with `optimizer`.
    pub fn new(context: &Context, vs: &VarStore, optimizer: O) -> Self {
        let course = Course::new(context, vs, optimizer.learning_rate());
        Self { optimizer, scheduler: (), value: (), scaler: (), value_name: None, course }
    }
}

impl<O, S, V, C> Run<O, S, V, C> {
    /// Saves and loads a learning rate scheduler, which the loop steps:
    /// `run.scheduler.step(&mut run.optimizer)?`. Takes several as a tuple, and any other [`Stateful`], whose values and tensors
    /// are those of rank 0.
    pub fn scheduler<T: Stateful>(self, scheduler: T) -> Run<O, T, V, C> {
        let Self { optimizer, value, scaler, value_name, course, .. } = self;
        Run { optimizer, scheduler, value, scaler, value_name, course }
    }

    /// Saves and loads a value of your own, which the loop reads and changes as `run.value`: rank 0's, as JSON, in which NaN
    /// and infinite numbers keep their meaning. The value is unchanged if the snapshot has none of this name. For several
    /// values, use a struct; [`SavedModel::value`](crate::SavedModel::value) reads it for inference.
    pub fn value<T: Serialize + DeserializeOwned>(self, name: &str, value: T) -> Run<O, S, T, C> {
        let Self { optimizer, scheduler, scaler, course, .. } = self;
        Run { optimizer, scheduler, value, scaler, value_name: Some(value_name(name)), course }
    }

    /// Saves and loads a gradient scaler, which the loop uses as `run.scaler`.
    pub fn scaler(self, scaler: GradScaler) -> Run<O, S, V, GradScaler> {
        self.with_scaler(scaler)
    }

    pub(crate) fn with_scaler<T: Stateful>(self, scaler: T) -> Run<O, S, V, T> {
        let Self { optimizer, scheduler, value, value_name, course, .. } = self;
        Run { optimizer, scheduler, value, scaler, value_name, course }
    }

    /// Resumes from and saves to these snapshots.
    pub fn snapshots(mut self, snapshots: Snapshots) -> Self {
        self.course.snapshots = Some(snapshots);
        self
    }

    /// Writes what is [logged](Self::log) to these metrics, and finishes them in [`finish`](Self::finish).
    pub fn metrics(mut self, metrics: &Metrics) -> Self {
        self.course.metrics = Some(metrics.clone());
        self
    }

    /// The steps that the run will have in total, from which the launcher derives the time left. By default, as many as the
    /// loader has batches: set it if a step takes several batches, or if there is no loader.
    pub fn total_steps(mut self, steps: u64) -> Self {
        self.course.total_steps = Some(steps);
        self
    }

    /// The current epoch, from 0.
    pub fn epoch(&self) -> u64 {
        self.course.progress.epoch
    }

    /// Optimizer steps done, over all epochs.
    pub fn step(&self) -> u64 {
        self.course.progress.step
    }

    /// The progress of the run.
    pub fn progress(&self) -> Progress {
        self.course.progress
    }

    /// The progress of the run in the newest snapshot that it has saved or loaded.
    pub fn saved_at(&self) -> Option<Progress> {
        self.course.snapshots.as_ref().and_then(Snapshots::saved_at)
    }

    /// Logs a value of the current step: call it before [`step_done`](Self::step_done), or of the epoch before
    /// [`epoch_done`](Self::epoch_done). The value goes to the [metrics](Self::metrics); the launcher shows `loss`,
    /// `learning_rate` and `grad_norm`, also as `train/loss` and so on. A loss that is not a finite number is reported once; see
    /// [`LossGuard`](crate::LossGuard) for other policies.
    ///
    /// A tensor with one element is this rank's value: the mean over the ranks is written, without waiting for them or for a
    /// GPU. A number is the same on all ranks: rank 0's is written. All ranks log the same names at the same steps.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a tensor with several elements.
    pub fn log<'v>(&mut self, name: &str, value: impl Into<Value<'v>>) -> Result<()> {
        self.course.log(name, value.into())
    }

    /// Judges the model by this metric, such as the loss of an evaluation: snapshots until the next step have it, for
    /// [`Snapshots::keep_best`]. One that is not finite does not count. The same on all ranks.
    pub fn metric(&mut self, metric: f64) {
        self.course.judge(metric);
    }

    /// Counts from the beginning again.
    pub(crate) fn restart(&mut self) {
        self.course.progress = Progress::default();
    }

    pub(crate) fn context(&self) -> &Context {
        &self.course.context
    }

    pub(crate) fn snapshots_ref(&self) -> Option<&Snapshots> {
        self.course.snapshots.as_ref()
    }

    pub(crate) fn set_snapshots(&mut self, snapshots: Snapshots) {
        self.course.snapshots = Some(snapshots);
    }
}

impl<O: Optimizer, S: Stateful, V: Serialize + DeserializeOwned, C: Stateful> Run<O, S, V, C> {
    /// Loads the newest valid snapshot, if there is one, and has `source` continue where the run was saved, also in the
    /// middle of an epoch and with another number of ranks. Every rank must call it: rank 0 chooses the snapshot.
    ///
    /// Damaged snapshots are skipped, with a warning. A snapshot without an optimizer, such as `cargo ddp snapshot import` makes
    /// of another program's model, has its weights only, and the run starts at its first step. A rank that did not exist when the
    /// snapshot was saved gets its own random numbers, the same in each such resume.
    ///
    /// # Errors
    /// [`Error::SnapshotsInUse`](crate::Error::SnapshotsInUse) when this run is going to save, and another program does;
    /// [`Error::NoValidSnapshot`](crate::Error::NoValidSnapshot) when there are snapshots but none is valid;
    /// [`Error::StateMismatch`](crate::Error::StateMismatch) when the model, the optimizer or another part is another, or
    /// was not saved; [`Error::Invalid`](crate::Error::Invalid) for tensors that no snapshot can hold, by name;
    /// [`Error::Io`](crate::Error::Io), also when the run is going to save and the directory can't be written to.
    pub fn resume(mut self, source: &mut impl Resumable) -> Result<Self> {
        self.load(source)?;
        Ok(self)
    }

    /// As [`resume`](Self::resume), for a run that goes back to its newest snapshot. Returns the progress of the run, if
    /// there is a snapshot.
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub fn load(&mut self, source: &mut impl Resumable) -> Result<Option<Progress>> {
        contents!(self, contents);
        let found = self.course.load(&mut contents)?;
        if found.is_some() {
            source.resume_at(self.course.position());
        }
        Ok(found)
    }

    /// The epoch to train next, from 0, until `epochs` epochs are done, counted from the very first start.
    #[must_use = "it is the epoch to train"]
    pub fn next_epoch(&mut self, epochs: u64) -> Option<u64> {
        self.course.next_epoch(epochs, self.optimizer.learning_rate())
    }

    /// Counts an optimizer step, which was trained on the batches that `source` has given so far; reports it with what was
    /// [logged](Self::log); and saves if it is time, or if the run is asked to stop. Call it after each step. Every rank must
    /// make the same calls: not in [`Ddp::join`](crate::Ddp::join).
    ///
    /// From the first call on, SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 to any rank make all ranks save at one step and end. A
    /// second SIGINT ends the process immediately, a second SIGTERM as soon as no snapshot is being written. Without
    /// [`snapshots`](Self::snapshots), the signals do what they always do.
    ///
    /// In a job of `cargo ddp run --at-step N`, all ranks stop here when step N is done: in their debuggers, or without any,
    /// for good.
    ///
    /// When `cargo ddp diff` asks for it, the call also compares the tensors of all ranks.
    ///
    /// # Errors
    /// [`Error::Preempted`](crate::Error::Preempted) when the run was asked to stop and is saved: with `?` it ends
    /// [`main`](crate::main) with exit code 75. [`Error::AtStep`](crate::Error::AtStep) at step N of `--at-step N`: with `?`,
    /// with exit code 0. Those of [`save`](Self::save) and of
    /// [`Metrics::log`]. [`Error::Invalid`](crate::Error::Invalid) when the run has snapshots and did not
    /// [`resume`](Self::resume).
    pub fn step_done(&mut self, source: &impl Resumable) -> Result<()> {
        contents!(self, contents);
        self.course.step_done(&mut contents, source.position(), source.batches_per_epoch())?;
        if self.course.stops_here(&mut contents)? {
            // The step of `cargo ddp run --at-step` is done on all ranks. Your line is one frame up the stack.
            debug::trap!();
        }
        Ok(())
    }

    /// Counts an epoch, reports and saves as [`step_done`](Self::step_done) does.
    ///
    /// # Errors
    /// As [`step_done`](Self::step_done).
    pub fn epoch_done(&mut self) -> Result<()> {
        contents!(self, contents);
        self.course.epoch_done(&mut contents)
    }

    /// Saves now. Every rank must call it. Does nothing without [`snapshots`](Self::snapshots).
    ///
    /// Rank 0 copies the tensors, and writes them while training continues. The snapshot appears under its name when everything
    /// in it is on disk, and replaces one of the same step. Rank 0 first waits for the snapshot before.
    ///
    /// Tensors on a GPU are copied to pinned memory by the GPU: the call returns before that, and the work that follows on
    /// the GPU waits for the copy. With open [`Metrics`], and with a scaler, the call waits for the GPU: the values are read
    /// first.
    ///
    /// # Errors
    /// On every rank: [`Error::DiskFull`](crate::Error::DiskFull) and [`Error::Io`](crate::Error::Io) of the snapshot
    /// *before* (of this one, too, with [`Snapshots::blocking`]); older snapshots are untouched.
    /// [`Error::Invalid`](crate::Error::Invalid) for what can't be saved.
    /// [`Error::SnapshotsInUse`](crate::Error::SnapshotsInUse) when another program writes there.
    pub fn save(&mut self) -> Result<()> {
        contents!(self, contents);
        self.course.save(&mut contents)
    }

    /// Waits until the last snapshot is on disk, on every rank, also beyond the group's timeout. Every rank must call it.
    ///
    /// # Errors
    /// Rank 0's, on every rank: [`Error::DiskFull`](crate::Error::DiskFull) or [`Error::Io`](crate::Error::Io); older
    /// snapshots are untouched.
    pub fn wait_saved(&mut self) -> Result<()> {
        self.course.snapshots.as_mut().map_or(Ok(()), Snapshots::wait_until_written)
    }

    /// Ends the run: saves it unless it was saved at this step and epoch, waits until the snapshot is on disk, and finishes
    /// the metrics. Every rank must call it.
    ///
    /// # Errors
    /// Those of [`save`](Self::save), [`wait_saved`](Self::wait_saved) and [`Metrics::finish`].
    pub fn finish(&mut self) -> Result<()> {
        self.save_at_end()?;
        self.course.metrics.as_ref().map_or(Ok(()), Metrics::finish)
    }

    pub(crate) fn save_at_end(&mut self) -> Result<()> {
        contents!(self, contents);
        self.course.finish(&mut contents)
    }

    /// Counts a step, as [`step_done`](Self::step_done) does; returns the progress of the run and the step's samples.
    pub(crate) fn count_step(&mut self, source: &impl Resumable) -> (Progress, u64) {
        let samples = self.course.count(source.position());
        (self.course.progress, samples)
    }

    /// Saves after a step that was counted, if it is time.
    pub(crate) fn save_step(&mut self) -> Result<()> {
        contents!(self, contents);
        self.course.save_step(&mut contents)?;
        if self.course.stops_here(&mut contents)? {
            // The step of `cargo ddp run --at-step` is done on all ranks.
            debug::trap!();
        }
        Ok(())
    }

    /// Sends a report about a loss that was looked at already.
    pub(crate) fn send(&self, report: StepReport) {
        self.course.context.send(report);
    }
}

impl<O, S, V, C> fmt::Debug for Run<O, S, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("progress", &self.course.progress)
            .field("snapshots", &self.course.snapshots)
            .finish_non_exhaustive()
    }
}
