//! The usual training loop.

mod fit;
mod report;

use std::fmt;

use tch::nn::VarStore;
use tch::{Kind, Tensor};

use report::Scores;
pub use report::{EpochReport, Outcome};

use crate::metrics::Metrics;
use crate::train::amp::{Autocast, GradScaler};
use crate::train::lr_scheduler::{LrScheduler, ReduceLrOnPlateau};
use crate::train::optim::Optimizer;
use crate::{Context, Ddp, Goal, NonFinite, Result, Run, Snapshots, StateDict, Stateful};

/// What a [`Trainer`] needs to know of a model: what it makes of a batch.
pub trait Learner {
    /// The items of the loader.
    type Batch: Send + 'static;

    /// The loss of a training batch: a scalar with a graph, the mean over the batch's samples.
    fn loss(&self, batch: &Self::Batch) -> Tensor;

    /// The metric's sum over the samples of an evaluation batch, a scalar, and their number. Runs without a graph. By
    /// default there is no metric, and evaluation is refused.
    fn metric(&self, batch: &Self::Batch) -> Option<(Tensor, i64)> {
        let _ = batch;
        None
    }
}

/// When a [`Trainer`] steps its scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEvery {
    /// After each optimizer step that was taken.
    Step,
    /// After each epoch.
    Epoch,
}

/// The usual training loop: epochs, gradient accumulation, clipping, mixed precision, a schedule,
/// evaluation, early stopping, snapshots, and a stop on request. It uses nothing that a loop of your own could not: see
/// the source of [`fit`](Self::fit).
///
/// ```
/// use ddp_runtime::data::{DataLoader, TensorDataset};
/// use ddp_runtime::lr_scheduler::{CosineAnnealing, CosineAnnealingLr};
/// use ddp_runtime::optim::{Sgd, SgdOptions};
/// use ddp_runtime::{Goal, Context, EpochReport, Learner, Outcome, StepEvery, Trainer};
/// use tch::nn::{self, Module};
/// use tch::{Kind, Tensor};
///
/// struct Line(nn::Linear);
///
/// impl Learner for Line {
///     type Batch = (Tensor, Tensor);
///
///     fn loss(&self, (x, y): &Self::Batch) -> Tensor {
///         self.0.forward(x).mse_loss(y, tch::Reduction::Mean)
///     }
///
///     fn metric(&self, (x, y): &Self::Batch) -> Option<(Tensor, i64)> {
///         Some((self.0.forward(x).mse_loss(y, tch::Reduction::Sum), y.size()[0]))
///     }
/// }
///
/// # fn main() -> Result<(), ddp_runtime::Error> {
/// let context = Context::init()?;
/// let x = Tensor::randn([64, 2], (Kind::Float, context.device()));
/// let y = x.sum_dim_intlist(1, true, Kind::Float);
/// let mut train = DataLoader::new(&context, TensorDataset::new((x.copy(), y.copy()))?, 8)?;
/// let test = DataLoader::eval(&context, TensorDataset::new((x, y))?, 32)?;
///
/// let vs = nn::VarStore::new(context.device());
/// let learner = Line(nn::linear(vs.root(), 2, 1, Default::default()));
/// let mut optimizer = Sgd::new(&vs, SgdOptions { lr: 0.1, ..Default::default() });
/// let scheduler = CosineAnnealingLr::new(&mut optimizer, CosineAnnealing::new(5))?;
/// let outcome: Outcome = Trainer::new(&context, &vs, optimizer)?
///     .scheduler(scheduler, StepEvery::Epoch)
///     .accumulate(2)
///     .clip_grad_norm(1.0)
///     .on_epoch(|report: &EpochReport| assert!(report.loss.is_some())) // instead of printing a line
///     .early_stopping(3, Goal::Minimize)
///     .fit(&learner, 5, &mut train, Some(&test))?;
/// assert!(outcome.metric.is_some_and(|loss| loss < 10.0));
/// # Ok(())
/// # }
/// ```
pub struct Trainer<'a> {
    vs: &'a VarStore,
    ddp: Ddp,
    run: TrainerRun<'a>,
    accumulate: usize,
    clip_norm: Option<f64>,
    clip_value: Option<f64>,
    autocast: Option<Autocast>,
    /// How many epochs without a better metric are still put up with.
    patience: Option<u64>,
    best: Goal,
    on_epoch: Box<dyn FnMut(&EpochReport) + 'a>,
    metrics: Option<&'a Metrics>,
    non_finite: NonFinite,
    /// What evaluations are logged as.
    metric_name: String,
}

/// The name of [`Scores`] among a snapshot's values.
const METRICS: &str = "trainer";

type TrainerRun<'a> = Run<Box<dyn Optimizer + 'a>, Schedulers<'a>, Scores, Option<GradScaler>>;

/// The schedulers that a trainer was given.
#[derive(Default)]
struct Schedulers<'a> {
    scheduler: Option<(Box<dyn LrScheduler + 'a>, StepEvery)>,
    plateau: Option<ReduceLrOnPlateau>,
}

impl Stateful for Schedulers<'_> {
    fn state_dict(&self) -> Result<StateDict> {
        let state =
            self.scheduler.as_ref().map_or_else(|| Ok(StateDict::new()), |(scheduler, _)| scheduler.state_dict())?;
        Ok(state.merge(self.plateau.state_dict()?))
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        self.scheduler.as_mut().map_or(Ok(()), |(scheduler, _)| scheduler.load_state_dict(state))?;
        self.plateau.load_state_dict(state)
    }

    fn restore_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.scheduler.as_ref().map_or(Ok(()), |(scheduler, _)| scheduler.restore_optimizer(optimizer))?;
        self.plateau.restore_optimizer(optimizer)
    }
}

impl<'a> Trainer<'a> {
    /// A trainer of the model in `vs`, which becomes a [`Ddp`]. Every rank must call it.
    ///
    /// # Errors
    /// Those of [`Ddp::new`].
    pub fn new(context: &'a Context, vs: &'a VarStore, optimizer: impl Optimizer + 'a) -> Result<Self> {
        Ok(Self::with_ddp(context, vs, Ddp::new(context.group(), vs)?, optimizer))
    }

    /// A trainer with a [`Ddp`] of other settings, made of the same `vs`.
    pub fn with_ddp(context: &'a Context, vs: &'a VarStore, ddp: Ddp, optimizer: impl Optimizer + 'a) -> Self {
        let rank0 = context.is_rank0();
        let print = move |report: &EpochReport| {
            if rank0 {
                println!("{report}");
            }
        };
        let optimizer: Box<dyn Optimizer + 'a> = Box::new(optimizer);
        let run = Run::new(context, vs, optimizer).scheduler(Schedulers::default());
        Self {
            vs,
            ddp,
            run: run.value(METRICS, Scores::default()).with_scaler(None),
            accumulate: 1,
            clip_norm: None,
            clip_value: None,
            autocast: None,
            patience: None,
            best: Goal::Minimize,
            on_epoch: Box::new(print),
            metrics: None,
            non_finite: NonFinite::Warn,
            metric_name: "eval/metric".into(),
        }
    }

    /// Steps this learning rate scheduler, which was made for the optimizer.
    pub fn scheduler(mut self, scheduler: impl LrScheduler + 'a, every: StepEvery) -> Self {
        self.run.scheduler.scheduler = Some((Box::new(scheduler), every));
        self
    }

    /// Steps this one with the metric of each evaluation.
    pub fn plateau(mut self, scheduler: ReduceLrOnPlateau) -> Self {
        self.run.scheduler.plateau = Some(scheduler);
        self
    }

    /// Accumulates the gradients of this many batches (at least 1) for one optimizer step, communicating once: the mean over
    /// them. An epoch's last step may have fewer.
    pub fn accumulate(mut self, batches: usize) -> Self {
        self.accumulate = batches.max(1);
        self
    }

    /// Clips the gradients' 2-norm before each step ([`clip_grad_norm`](crate::optim::clip_grad_norm)).
    pub fn clip_grad_norm(mut self, max_norm: f64) -> Self {
        self.clip_norm = Some(max_norm);
        self
    }

    /// Clips each value of the gradients ([`clip_grad_value`](crate::optim::clip_grad_value)).
    pub fn clip_grad_value(mut self, clip_value: f64) -> Self {
        self.clip_value = Some(clip_value);
        self
    }

    /// Computes losses and metrics in `kind`, `BFloat16` or `Half` ([`Autocast`]).
    ///
    /// # Errors
    /// Those of [`Autocast::new`].
    pub fn autocast(mut self, kind: Kind) -> Result<Self> {
        self.autocast = Some(Autocast::new(self.run.context().device(), kind)?);
        Ok(self)
    }

    /// Scales the loss, for `Half`. With a scheduler that takes a step [per step](StepEvery::Step), each step waits for a GPU, as
    /// the scheduler does not count the steps that the scaler skips.
    pub fn scaler(mut self, scaler: GradScaler) -> Self {
        self.run.scaler = Some(scaler);
        self
    }

    /// Resumes from the newest snapshot; saves when these are due, when the run is asked to stop, and at its end.
    pub fn snapshots(mut self, snapshots: Snapshots) -> Self {
        self.run.set_snapshots(snapshots.saves());
        self
    }

    /// Stops when the metric was not better for more than `patience` epochs in a row. `best` also defines which metric of
    /// the run is reported; without this, the smallest.
    pub fn early_stopping(mut self, patience: u64, best: Goal) -> Self {
        self.patience = Some(patience);
        self.best = best;
        self
    }

    /// What is done about a loss that is not a finite number: by default, rank 0 warns once. Steps that are skipped count as
    /// [left out](EpochReport::skipped_steps), and their losses do not count in the mean of the epoch.
    pub fn non_finite(mut self, policy: NonFinite) -> Self {
        self.non_finite = policy;
        self
    }

    /// Calls `f` on every rank after each epoch, instead of printing a line on rank 0.
    pub fn on_epoch(mut self, f: impl FnMut(&EpochReport) + 'a) -> Self {
        self.on_epoch = Box::new(f);
        self
    }

    /// Logs what happens: `train/loss`, `train/learning_rate`, `train/grad_norm` (of each step when it is clipped, else of
    /// each tenth) and `train/samples_per_second` of the steps; `epoch/loss` and `eval/metric` of the epochs.
    ///
    /// ```no_run
    /// # use ddp_runtime::{Context, Trainer, metrics::Metrics, optim::{Sgd, SgdOptions}};
    /// # fn main() -> ddp_runtime::Result<()> {
    /// # let context = Context::init()?;
    /// # let vs = tch::nn::VarStore::new(context.device());
    /// # let optimizer = Sgd::new(&vs, SgdOptions::default());
    /// let metrics = Metrics::open(&context)?;
    /// let trainer = Trainer::new(&context, &vs, optimizer)?.metrics(&metrics).metric_name("eval/accuracy");
    /// // trainer.fit(…)?;
    /// metrics.finish()
    /// # }
    /// ```
    pub fn metrics(mut self, metrics: &'a Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// What [`metrics`](Self::metrics) call the metric of an evaluation, such as `eval/accuracy`; lines have its last part.
    pub fn metric_name(mut self, name: impl Into<String>) -> Self {
        self.metric_name = name.into();
        self
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &dyn Optimizer {
        &self.run.optimizer
    }
}

impl fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("ddp", &self.ddp)
            .field("accumulate", &self.accumulate)
            .field("clip_norm", &self.clip_norm)
            .field("autocast", &self.autocast)
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}
