//! What a run measures: numbers of all ranks together, histograms, images, hyperparameters, as TensorBoard's event files
//! and as [`metrics.jsonl`](ddp_contract::metrics), which `cargo ddp plot` reads.

mod exchange;
mod histogram;
mod image;
mod proto;
mod record;
mod reporter;
mod tensorboard;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ddp_contract::env;
use tch::Tensor;

pub(crate) use record::OwnedValue;
pub use record::{HParam, Reduce, Value};

use crate::train::optim;
use crate::train::optim::{Gradients, Optimizer};
use crate::worker::deferred::Deferred;
use crate::worker::process::process;
use crate::{Context, Error, Result};

use record::{LogRecord, Scalar, now};
use reporter::{Reporter, Shared};
use writer::Writer;

/// The folder without a launcher.
const FOLDER: &str = "metrics";
/// Records that wait for the thread. Beyond these the loop waits, too: values on a GPU take memory there.
const QUEUE: usize = 1 << 12;
/// How long a dropped `Metrics` waits for the other ranks.
const PATIENCE: Duration = Duration::from_secs(5);

/// Measurements of a run, reduced across its ranks in the background. Clones share them.
///
/// [`log`](Self::log) hands a value over and returns. A thread of each rank collects the values of many steps, and
/// exchanges them over a separate group (Gloo, on the CPU): the values of about a second in one exchange. Rank 0 writes
/// them into the run's folder: `events.out.tfevents.*` for TensorBoard (`tensorboard --logdir runs`), and
/// `metrics.jsonl` for `cargo ddp plot` and everybody else.
///
/// **All ranks log the same names at the same steps, in the same order.** Where they do not, every rank gets
/// [`Error::MetricsDiffer`] from one of its next calls, at the latest from [`finish`](Self::finish).
/// [`log_rank0`](Self::log_rank0), [`histogram`](Self::histogram), [`image`](Self::image) and [`hparams`](Self::hparams)
/// take what rank 0 gives, and may be called there alone.
///
/// `step` is the number of optimizer steps done, over all epochs: after a restart from a snapshot, what earlier attempts
/// logged of later steps is superseded, in TensorBoard too. [`Snapshots`](crate::Snapshots) have everything exchanged and
/// written before they save, so the history of a run that was killed has no gaps.
///
/// A disk that is full, or a folder that is gone, stops the measuring with a warning, not the training.
///
/// ```
/// use ddp_runtime::Context;
/// use ddp_runtime::metrics::Metrics;
/// use tch::Tensor;
///
/// # fn main() -> ddp_runtime::Result<()> {
/// # let folder = tempfile::tempdir().map_err(ddp_runtime::Error::other)?;
/// # std::env::set_current_dir(folder.path()).map_err(ddp_runtime::Error::other)?;
/// let context = Context::init()?;
/// let metrics = Metrics::open(&context)?;
/// metrics.hparams([("lr", 0.1.into()), ("model", "linear".into())], ["loss"])?;
/// for step in 1..=100 {
///     let loss = Tensor::from(1.0 / step as f64); // of this rank
///     metrics.log("loss", &loss, step)?;          // the mean of all ranks is written
///     metrics.throughput(32, step)?;
/// }
/// metrics.finish()
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` while it is dropped.
    sender: Option<Arc<SyncSender<LogRecord>>>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread is through.
    done: Mutex<Receiver<()>>,
    shared: Arc<Shared>,
    rank0: bool,
    dir: PathBuf,
}

/// Settings of [`Metrics::with_options`].
///
/// ```
/// use ddp_runtime::Context;
/// use ddp_runtime::metrics::{Metrics, MetricsOptions};
///
/// # fn main() -> ddp_runtime::Result<()> {
/// # let folder = tempfile::tempdir().map_err(ddp_runtime::Error::other)?;
/// let context = Context::init()?;
/// let dir = Some(folder.path().join("metrics"));
/// let metrics = Metrics::with_options(&context, MetricsOptions { dir, every_steps: Some(100) })?;
/// # metrics.finish()
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsOptions {
    /// The folder to write into; by default as [`Metrics::open`].
    pub dir: Option<PathBuf>,
    /// The ranks exchange their values after this many steps that something was logged at; by default after about a second.
    /// The same on all ranks.
    pub every_steps: Option<u64>,
}

impl Metrics {
    /// Writes into the run's folder, which the launcher sets (`DDP_RUN_DIR`: `runs/N`); without a launcher, into
    /// `metrics` in the current folder. Every rank must call it.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder can't be made, [`Error::Invalid`] when another run writes there, on all ranks.
    pub fn open(context: &Context) -> Result<Self> {
        Self::with_options(context, MetricsOptions::default())
    }

    /// Writes into `dir`, so that runs one after the other (the second resumes from the first one's snapshot) have one
    /// history. Every rank must call it; rank 0's `dir` counts. In a job of `cargo ddp run --at-step`, it writes into the run's
    /// folder instead.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(context: &Context, dir: impl Into<PathBuf>) -> Result<Self> {
        Self::with_options(context, MetricsOptions { dir: Some(dir.into()), ..MetricsOptions::default() })
    }

    /// As [`open`](Self::open), with settings. Every rank must call it.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Error::Invalid`] for settings that can't be.
    pub fn with_options(context: &Context, options: MetricsOptions) -> Result<Self> {
        let MetricsOptions { dir, every_steps } = options;
        let dir = dir.filter(|_| context.at_step().is_none()).unwrap_or_else(default_dir);
        let checked = match every_steps {
            Some(0) => Err(Error::Invalid("metrics: every_steps must be at least 1".into())),
            _ if context.is_rank0() => Writer::open(&dir, context).map(Some),
            _ => Ok(None),
        };
        let writer = context.group().agree("opening metrics", checked)?;
        // The exchanges may run at the same time as the loop's.
        let several = context.world_size() > 1;
        let group = several.then(|| context.group().in_background("metrics")).transpose()?;
        let shared = Arc::new(Shared::default());
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let (alive, done) = mpsc::channel();
        let reporter = Reporter::new(group, writer, context.device(), every_steps, receiver, shared.clone());
        let run = move || {
            let _alive: Sender<()> = alive;
            reporter.run();
        };
        let thread = thread::Builder::new().name("ddp-metrics".into()).spawn(run);
        let thread = thread.map_err(Error::io("can't start a thread to write to", &dir))?;
        let sender = Arc::new(sender);
        flush_before_saving(context, &sender, &shared);
        let (sender, thread, done) = (Some(sender), Some(thread), Mutex::new(done));
        Ok(Self(Arc::new(Inner { sender, thread, done, shared, rank0: context.is_rank0(), dir })))
    }

    /// Logs a number of this rank: a Rust number, or a tensor with one element. The mean over all ranks is written. The
    /// value of a tensor on a GPU is copied there, and read later: nothing waits for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tensor with several elements; what went wrong earlier, such as [`Error::MetricsDiffer`].
    pub fn log<'v>(&self, name: &str, value: impl Into<Value<'v>>, step: u64) -> Result<()> {
        self.log_as(name, value, step, Reduce::Mean)
    }

    /// As [`log`](Self::log), with another way to make one number of all ranks'.
    ///
    /// ```
    /// # use ddp_runtime::{Context, metrics::{Metrics, Reduce}};
    /// # fn main() -> ddp_runtime::Result<()> {
    /// # let folder = tempfile::tempdir().map_err(ddp_runtime::Error::other)?;
    /// # let context = Context::init()?;
    /// # let metrics = Metrics::open_in(&context, folder.path())?;
    /// metrics.log_as("slowest_step_seconds", 0.25, 1, Reduce::Max)?;
    /// # metrics.finish()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub fn log_as<'v>(&self, name: &str, value: impl Into<Value<'v>>, step: u64, reduce: Reduce) -> Result<()> {
        let value = value.into().into_owned(name)?;
        self.send(LogRecord::Scalar(Scalar { name: name.into(), step, value, reduce: Some(reduce), time: now() }))
    }

    /// Logs a number of rank 0, such as one that is the same on all ranks. Other ranks' are ignored; they need not call it.
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub fn log_rank0<'v>(&self, name: &str, value: impl Into<Value<'v>>, step: u64) -> Result<()> {
        if !self.0.rank0 {
            return self.check();
        }
        let value = value.into().into_owned(name)?;
        self.send(LogRecord::Scalar(Scalar { name: name.into(), step, value, reduce: None, time: now() }))
    }

    /// Logs how the values of rank 0's tensor are distributed, in TensorBoard: weights, gradients, activations. They are
    /// copied on their device; the rest is done in the background. Other ranks' are ignored.
    ///
    /// ```
    /// # use ddp_runtime::{Context, metrics::Metrics};
    /// # fn main() -> ddp_runtime::Result<()> {
    /// # let folder = tempfile::tempdir().map_err(ddp_runtime::Error::other)?;
    /// # let context = Context::init()?;
    /// # let metrics = Metrics::open_in(&context, folder.path())?;
    /// # let weight = tch::Tensor::randn([16, 16], tch::kind::FLOAT_CPU);
    /// metrics.histogram("layer1/weight", &weight, 100)?;
    /// # metrics.finish()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub fn histogram(&self, name: &str, values: &Tensor, step: u64) -> Result<()> {
        if !self.0.rank0 {
            return self.check();
        }
        let values = record::copy(values)?;
        self.send(LogRecord::Histogram { name: name.into(), step, values, time: now() })
    }

    /// Logs an image of rank 0, in TensorBoard: `[H, W]`, `[C, H, W]` with 1, 3 or 4 channels, or a batch `[N, C, H, W]`,
    /// which is drawn as a grid. Bytes (`Uint8`) are taken as they are, other numbers as shares of 1. Other ranks' are
    /// ignored.
    ///
    /// ```
    /// # use ddp_runtime::{Context, metrics::Metrics};
    /// # fn main() -> ddp_runtime::Result<()> {
    /// # let folder = tempfile::tempdir().map_err(ddp_runtime::Error::other)?;
    /// # let context = Context::init()?;
    /// # let metrics = Metrics::open_in(&context, folder.path())?;
    /// let samples = tch::Tensor::rand([16, 1, 28, 28], tch::kind::FLOAT_CPU);
    /// metrics.image("samples", &samples, 100)?;
    /// # metrics.finish()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`log`](Self::log), and [`Error::Invalid`] for another shape.
    pub fn image(&self, name: &str, image: &Tensor, step: u64) -> Result<()> {
        if !self.0.rank0 {
            return self.check();
        }
        image::check(image)?;
        let image = record::copy(image)?;
        self.send(LogRecord::Image { name: name.into(), step, image, time: now() })
    }

    /// Writes down what the run was given, for TensorBoard's hparams tab: names with numbers, words or flags; and the names
    /// of the metrics to compare runs by. Once per run; rank 0's count.
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub fn hparams<'a>(
        &self,
        values: impl IntoIterator<Item = (&'a str, HParam)>,
        metrics: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        if !self.0.rank0 {
            return self.check();
        }
        let values: BTreeMap<String, HParam> = values.into_iter().map(|(name, value)| (name.into(), value)).collect();
        let metrics = metrics.into_iter().map(str::to_owned).collect();
        self.send(LogRecord::Hparams { values, metrics, time: now() })
    }

    /// Takes note of `samples` (of all ranks together) that were trained on in `step`: samples per second are logged about
    /// once a second, as `train/samples_per_second`.
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub fn throughput(&self, samples: u64, step: u64) -> Result<()> {
        if !self.0.rank0 {
            return self.check();
        }
        self.send(LogRecord::Samples { samples, step, at: Instant::now() })
    }

    /// Logs the learning rate in use, as `train/learning_rate`; of several parameter groups, the first one's.
    ///
    /// ```
    /// # use ddp_runtime::{Context, metrics::Metrics, optim::{Sgd, SgdOptions}};
    /// # fn main() -> ddp_runtime::Result<()> {
    /// # let folder = tempfile::tempdir().map_err(ddp_runtime::Error::other)?;
    /// # let context = Context::init()?;
    /// # let metrics = Metrics::open_in(&context, folder.path())?;
    /// # let vs = tch::nn::VarStore::new(context.device());
    /// # let weight = vs.root().ones("weight", &[2]);
    /// # let optimizer = Sgd::new(&vs, SgdOptions { lr: 0.1, ..Default::default() });
    /// # weight.sum(tch::Kind::Float).backward();
    /// // After `backward`:
    /// metrics.learning_rate(&optimizer, 1)?;
    /// metrics.grad_norm(&vs, 1)?;
    /// # metrics.finish()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub fn learning_rate(&self, optimizer: &dyn Optimizer, step: u64) -> Result<()> {
        self.log_rank0("train/learning_rate", optimizer.learning_rate(), step)
    }

    /// Logs the norm of all gradients as one vector, as `train/grad_norm`, without changing them. (They are the same on all
    /// ranks. Where they are clipped, [`clip_grad_norm`](optim::clip_grad_norm) returns the norm at no cost.)
    ///
    /// # Errors
    /// As [`log`](Self::log), and [`Error::Torch`].
    pub fn grad_norm(&self, parameters: &(impl Gradients + ?Sized), step: u64) -> Result<()> {
        if !self.0.rank0 {
            return self.check();
        }
        self.log_rank0("train/grad_norm", &optim::grad_norm(parameters, 2.0)?, step)
    }

    /// Exchanges and writes everything that was logged so far. Waits for the other ranks: every rank must call it.
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub fn flush(&self) -> Result<()> {
        self.0.sender.as_ref().map_or(Ok(()), |sender| flush(sender, &self.0.shared))
    }

    /// Exchanges and writes what is left, and records that the run has ended. Waits for the other ranks: every rank must
    /// call it. Nothing can be logged after it. (Dropped without it, the same is tried, for a few seconds. In
    /// [`main`](crate::main) that happens when the next step is reported or the program ends, and not after an error.)
    ///
    /// # Errors
    /// As [`log`](Self::log).
    pub fn finish(&self) -> Result<()> {
        let (through, wait) = mpsc::channel();
        if self.0.sender.as_ref().is_some_and(|sender| sender.send(LogRecord::Finish(through)).is_ok()) {
            // No values will follow: it is closed in the end.
            let _ = wait.recv();
        }
        self.check()
    }

    /// The folder that rank 0 writes into.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// How many collective operations the exchanges have taken so far: two for each.
    pub fn collectives(&self) -> u64 {
        self.0.shared.collectives()
    }

    /// Logs a value that was taken earlier: this rank's, of which the mean over the ranks is written, or rank 0's.
    pub(crate) fn write(&self, name: String, value: OwnedValue, step: u64, is_of_rank: bool) -> Result<()> {
        if !is_of_rank && !self.0.rank0 {
            return self.check();
        }
        let reduce = is_of_rank.then_some(Reduce::Mean);
        self.send(LogRecord::Scalar(Scalar { name, step, value, reduce, time: now() }))
    }

    fn send(&self, record: LogRecord) -> Result<()> {
        match &self.0.sender {
            Some(sender) if sender.send(record).is_ok() => Ok(()),
            _ => self.check().and(Err(Error::Invalid("metrics: can't log after `finish`".into()))),
        }
    }

    fn check(&self) -> Result<()> {
        self.0.shared.check()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (Some(sender), Some(thread)) = (self.sender.take(), self.thread.take()) else { return };
        let (_never, nothing) = mpsc::channel();
        let done = std::mem::replace(self.done.get_mut().unwrap_or_else(PoisonError::into_inner), nothing);
        process().deferred.defer(Unfinished { sender, thread, done });
    }
}

/// A `Metrics` that was dropped.
struct Unfinished {
    sender: Arc<SyncSender<LogRecord>>,
    thread: JoinHandle<()>,
    done: Receiver<()>,
}

impl Deferred for Unfinished {
    /// As `Metrics::finish`, for at most [`PATIENCE`].
    fn finish(self: Box<Self>) {
        let Self { sender, thread, done } = *self;
        drop(sender);
        // Nothing is sent: it ends when the thread does.
        if done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected) {
            let _ = thread.join();
        }
    }
}

/// Once `finish` was called there is nothing to flush.
fn flush(sender: &SyncSender<LogRecord>, shared: &Shared) -> Result<()> {
    let (written, wait) = mpsc::channel();
    if sender.send(LogRecord::Flush(written)).is_ok() {
        // Closed without a word when the thread has failed.
        let _ = wait.recv();
    }
    shared.check()
}

/// What a run has logged is on disk before the snapshot that it may resume from: its history has no gaps.
fn flush_before_saving(context: &Context, sender: &Arc<SyncSender<LogRecord>>, shared: &Arc<Shared>) {
    let (sender, shared) = (Arc::downgrade(sender), shared.clone());
    context.before_save().add(move || sender.upgrade().map(|sender| flush(&sender, &shared)));
}

fn default_dir() -> PathBuf {
    let of_run = std::env::var_os(env::RUN_DIR).filter(|dir| !dir.is_empty());
    of_run.map_or_else(|| FOLDER.into(), PathBuf::from)
}
