//! The progress of a run: counted, reported and saved.

use std::time::Duration;

use tch::nn::VarStore;
use tch::{Device, Tensor};

use crate::data::Position;
use crate::dist::consensus::{Consensus, Request};
use crate::metrics::{Metrics, OwnedValue, Value};
use crate::snapshot::Contents;
use crate::train::rank_diff;
use crate::worker::requests::DiffRequests;
use crate::{Context, LossGuard, NonFinite, Progress, Result, Snapshots, StepReport};

/// How often ranks exchange requests: signals and clocks ask for snapshots, which must not be late.
const PERIOD: Duration = Duration::from_millis(100);
/// How often, if there are no snapshots: all that can be asked for is a comparison of the ranks.
const LONG_PERIOD: Duration = Duration::from_secs(1);

/// The part of a [`Run`](super::Run) that does not depend on the types of what is trained.
pub(super) struct Course {
    pub(super) context: Context,
    /// A handle of the program's own store.
    model: VarStore,
    pub(super) snapshots: Option<Snapshots>,
    pub(super) metrics: Option<Metrics>,
    pub(super) progress: Progress,
    /// Of the run in total, if the program has set it.
    pub(super) total_steps: Option<u64>,
    /// Of the run in total, once the loop has begun.
    epochs: Option<u64>,
    /// The learning rate of the step that comes next, if nothing changes it.
    learning_rate: f64,
    /// What was logged since the last step or epoch was done.
    logged: Vec<Logged>,
    judged: Option<Judged>,
    resumed: bool,
    /// For losses on a GPU.
    guard: Option<LossGuard>,
    consensus: Consensus,
    /// A launcher has started all workers, so that somebody may ask for a comparison of the ranks.
    is_comparable: bool,
    diffs: DiffRequests,
}

struct Logged {
    name: String,
    value: OwnedValue,
    /// The value is this rank's, and the mean over the ranks is written.
    is_of_rank: bool,
}

/// The metric of the model.
struct Judged {
    metric: f64,
    /// No step or epoch was done since.
    is_new: bool,
}

impl Course {
    pub(super) fn new(context: &Context, vs: &VarStore, learning_rate: f64) -> Self {
        // Only the variables of a store can be shared.
        let mut model = VarStore::new(vs.device());
        model.variables_ = vs.variables_.clone();
        let is_comparable = context.launcher().is_open() && context.world_size() > 1;
        Self {
            context: context.clone(),
            model,
            snapshots: None,
            metrics: None,
            progress: Progress::default(),
            total_steps: None,
            epochs: None,
            learning_rate,
            logged: Vec::new(),
            judged: None,
            resumed: false,
            guard: None,
            consensus: Consensus::default(),
            is_comparable,
            diffs: DiffRequests::new(context.rank(), is_comparable && context.local_rank() == 0),
        }
    }

    pub(super) fn load(&mut self, contents: &mut Contents<'_>) -> Result<Option<Progress>> {
        self.resumed = true;
        self.logged.clear();
        self.judged = None;
        let Some(snapshots) = &mut self.snapshots else { return Ok(None) };
        let found = snapshots.resume(&self.model, contents)?;
        self.progress = found.unwrap_or(self.progress);
        self.learning_rate = contents.optimizer.learning_rate();
        Ok(found)
    }

    pub(super) fn position(&self) -> Position {
        Position { epoch: self.progress.epoch, samples: self.progress.samples }
    }

    pub(super) fn next_epoch(&mut self, epochs: u64, learning_rate: f64) -> Option<u64> {
        (self.epochs, self.learning_rate) = (Some(epochs), learning_rate);
        (self.progress.epoch < epochs).then_some(self.progress.epoch)
    }

    pub(super) fn log(&mut self, name: &str, value: Value<'_>) -> Result<()> {
        let is_of_rank = matches!(value, Value::Tensor(_));
        self.logged.push(Logged { name: name.to_owned(), value: value.into_owned(name)?, is_of_rank });
        Ok(())
    }

    pub(super) fn judge(&mut self, metric: f64) {
        self.judged = Some(Judged { metric, is_new: true });
    }

    /// Counts a step that was trained on the samples up to `position`, and reports it with what was logged.
    pub(super) fn step_done(
        &mut self,
        contents: &mut Contents<'_>,
        position: Position,
        batches_per_epoch: Option<u64>,
    ) -> Result<()> {
        let samples = self.count(position);
        let Progress { epoch, step, .. } = self.progress;
        let mut report = StepReport::new(epoch, step).samples(samples).learning_rate(self.learning_rate);
        let all = || self.epochs?.checked_mul(batches_per_epoch?);
        if let Some(total) = self.total_steps.or_else(all) {
            report = report.total_steps(total);
        }
        self.report(report)?;
        self.write_logged()?;
        self.save_step(contents)
    }

    /// Counts a step; returns the samples of all ranks that it was trained on.
    pub(super) fn count(&mut self, position: Position) -> u64 {
        let before = self.progress.samples;
        self.progress.step += 1;
        if position.epoch == self.progress.epoch {
            self.progress.samples = position.samples;
        }
        self.progress.samples.saturating_sub(before)
    }

    /// Saves after a step, if it is time or the run is asked to stop.
    pub(super) fn save_step(&mut self, contents: &mut Contents<'_>) -> Result<()> {
        self.learning_rate = contents.optimizer.learning_rate();
        self.judged.take_if(|judged| !judged.is_new); // it was of other weights
        self.save_if_due(contents)
    }

    pub(super) fn epoch_done(&mut self, contents: &mut Contents<'_>) -> Result<()> {
        let Progress { epoch, step, .. } = self.progress;
        if self.logged.iter().any(|logged| is_loss(&logged.name)) {
            self.report(StepReport::new(epoch, step))?;
        }
        self.write_logged()?;
        (self.progress.epoch, self.progress.samples) = (epoch + 1, 0);
        self.save_if_due(contents)
    }

    pub(super) fn save(&mut self, contents: &mut Contents<'_>) -> Result<()> {
        contents.metric = self.judged.as_ref().map(|judged| judged.metric);
        let Some(snapshots) = &mut self.snapshots else { return Ok(()) };
        snapshots.save(&self.model, contents, self.progress)
    }

    pub(super) fn finish(&mut self, contents: &mut Contents<'_>) -> Result<()> {
        self.write_logged()?;
        contents.metric = self.judged.as_ref().map(|judged| judged.metric);
        let Some(snapshots) = &mut self.snapshots else { return Ok(()) };
        snapshots.finish(&self.model, contents, self.progress)
    }

    fn save_if_due(&mut self, contents: &mut Contents<'_>) -> Result<()> {
        if let Some(judged) = &mut self.judged {
            judged.is_new = false;
            contents.metric = Some(judged.metric);
        }
        if self.snapshots.is_some() && !self.resumed {
            let problem = "`Run::resume` must be called before the first step: the run would start from scratch, and \
                           replace the snapshots of the previous run";
            return Err(crate::Error::Invalid(problem.into()));
        }
        let agreed = self.agree_on_requests()?;
        if agreed.diff {
            self.compare_ranks(contents)?;
        }
        let Some(snapshots) = &mut self.snapshots else { return Ok(()) };
        snapshots.save_if_due(&self.model, contents, self.progress, agreed)
    }

    fn agree_on_requests(&mut self) -> Result<Request> {
        let Self { snapshots, diffs, .. } = self;
        let saves = snapshots.as_ref().map_or(Ok(false), Snapshots::takes_requests)?;
        if !saves && !self.is_comparable {
            return Ok(Request::default());
        }
        let period = if saves { PERIOD } else { LONG_PERIOD };
        self.consensus.reach(self.context.group(), period, || {
            let request = snapshots.as_ref().map(Snapshots::request).unwrap_or_default();
            Request { diff: diffs.arrived(), ..request }
        })
    }

    /// Compares the ranks' tensors for `cargo ddp diff`.
    fn compare_ranks(&mut self, contents: &Contents<'_>) -> Result<()> {
        let own = rank_diff::collect(&self.model, &*contents.optimizer);
        let diff = rank_diff::compare(self.context.group(), own, self.progress.step)?;
        self.diffs.answer(&diff);
        Ok(())
    }

    /// Sends a report with the logged values that the launcher shows. A loss on a GPU is that of a few steps ago, as nothing
    /// waits for it.
    fn report(&mut self, mut report: StepReport) -> Result<()> {
        let mut on_device = None;
        for Logged { name, value, .. } in &self.logged {
            report = match (name.as_str(), value) {
                (name, OwnedValue::Number(loss)) if is_loss(name) => report.loss(*loss),
                ("learning_rate" | "train/learning_rate", OwnedValue::Number(rate)) => report.learning_rate(*rate),
                ("grad_norm" | "train/grad_norm", OwnedValue::Number(norm)) => report.grad_norm(*norm),
                (name, OwnedValue::OnDevice(loss)) if is_loss(name) => {
                    on_device = Some(loss);
                    report
                }
                _ => report,
            };
        }
        let Some(loss) = on_device else {
            self.context.report(report);
            return Ok(());
        };
        // It is looked at when the GPU has computed it.
        let guard = self.guard.get_or_insert_with(|| LossGuard::new(&self.context, &self.model, NonFinite::Warn));
        guard.check(loss, self.progress.step)?;
        self.context.send(guard.latest().map_or(report, |loss| report.loss(loss)));
        Ok(())
    }

    fn write_logged(&mut self) -> Result<()> {
        let logged = std::mem::take(&mut self.logged);
        let Some(metrics) = &self.metrics else { return Ok(()) };
        let step = self.progress.step;
        logged
            .into_iter()
            .try_for_each(|Logged { name, value, is_of_rank }| metrics.write(name, value, step, is_of_rank))
    }
}

fn is_loss(name: &str) -> bool {
    matches!(name, "loss" | "train/loss")
}

/// The value of a tensor that need not be waited for.
pub(crate) fn at_hand(tensor: &Tensor) -> Option<f64> {
    (tensor.device() == Device::Cpu).then(|| tensor.f_double_value(&[]).ok()).flatten()
}
