//! The loop itself.

use std::time::Instant;

use tch::{Kind, Tensor};

use super::report::Scores;
use super::{EpochReport, Learner, Outcome, StepEvery, Trainer};
use crate::data::{BatchDataset, DataLoader, EvalSampler, mean_over_ranks};
use crate::train::amp::Stepped;
use crate::train::optim;
use crate::train::run::at_hand;
use crate::worker::say::say;
use crate::{Error, LossGuard, Progress, Result, StepReport};

/// Sums over an epoch, kept on the device: reading them would wait for it.
struct Epoch {
    loss: Tensor,
    batches: i64,
    grad_norm: Option<Tensor>,
    /// For the loss.
    skipped_steps: u64,
    /// And those that the scaler skipped.
    overflows: Option<Tensor>,
}

impl Epoch {
    /// Counts the step if it was skipped.
    fn count(&mut self, stepped: &Stepped) -> Result<()> {
        let Some(skipped) = stepped.skipped() else { return Ok(()) };
        self.overflows = Some(match &self.overflows {
            Some(overflows) => overflows.f_add(skipped).map_err(Error::tch("training"))?,
            None => skipped.shallow_clone(),
        });
        Ok(())
    }

    fn skipped_steps(&self) -> Result<u64> {
        let overflows = self.overflows.as_ref().map_or(Ok(0.0), number)?;
        Ok(self.skipped_steps + overflows as u64)
    }
}

/// A step that is done.
struct Step {
    number: u64,
    /// Of its batches on this rank.
    losses: Vec<Tensor>,
    learning_rate: f64,
    /// Of all ranks.
    samples: u64,
}

/// Steps between norms of gradients that are not needed for clipping.
const GRAD_NORM_EVERY: u64 = 10;

impl Step {
    /// What the launcher shows: what can be read without waiting for a GPU.
    fn report(&self, epoch: u64, sums: &Epoch) -> StepReport {
        let mut report = StepReport::new(epoch, self.number).samples(self.samples).learning_rate(self.learning_rate);
        if let Some(loss) = self.losses.last().and_then(at_hand) {
            report = report.loss(loss);
        }
        if let Some(norm) = sums.grad_norm.as_ref().and_then(at_hand) {
            report = report.grad_norm(norm);
        }
        report
    }
}

impl Trainer<'_> {
    /// Trains until `epochs` epochs are done, counted from the very first start; `train` is read from where the newest
    /// snapshot is, and `test` is evaluated after each epoch. Every rank must call it.
    ///
    /// Before an evaluation, every rank gets rank 0's buffers (BatchNorm's statistics).
    ///
    /// # Errors
    /// [`Error::Preempted`] when the run was asked to stop, with everything saved; what the loaders, the optimizer and the
    /// snapshots may give; [`Error::Invalid`] for `test` with a learner without a metric.
    pub fn fit<L, D>(
        &mut self,
        learner: &L,
        epochs: u64,
        train: &mut DataLoader<D>,
        test: Option<&DataLoader<D, EvalSampler>>,
    ) -> Result<Outcome>
    where
        L: Learner,
        D: BatchDataset<Batch = L::Batch>,
    {
        self.run.restart();
        self.run.value = Scores::default();
        if let Some(snapshots) = self.run.snapshots_ref() {
            snapshots.check_writable()?; // it saves at its end in any case
        }
        self.run.load(train)?;
        let mut guard = LossGuard::new(self.run.context(), self.vs, self.non_finite);
        let mut stopped_early = self.should_stop();
        if self.run.context().is_rank0() && (stopped_early || self.run.epoch() >= epochs) {
            say(nothing_to_train(self.run.progress(), epochs, stopped_early));
        }
        while !stopped_early && self.run.next_epoch(epochs).is_some() {
            let start = Instant::now();
            let before = self.run.progress();
            let epoch = self.train_epoch(learner, train, epochs, &mut guard)?;
            guard.look()?;
            let loss = mean_over_ranks(self.run.context().group(), &epoch.loss, epoch.batches)?;
            let duration = start.elapsed(); // the loss is known when the GPU has computed it

            let learning_rate = self.run.optimizer.learning_rate();
            let metric = test.map(|test| self.evaluate(learner, test)).transpose()?;
            let run = &mut self.run;
            let is_best = metric.is_some_and(|metric| run.value.record(metric, self.best));
            if let Some(metric) = metric {
                run.metric(metric);
                if let Some(plateau) = &mut run.scheduler.plateau {
                    plateau.step_with(metric, &mut run.optimizer)?;
                }
            }
            if let Some((scheduler, StepEvery::Epoch)) = &mut run.scheduler.scheduler {
                scheduler.step(&mut run.optimizer)?;
            }
            let skipped_steps = epoch.skipped_steps()?;
            let Progress { step, samples, .. } = run.progress();
            let report = EpochReport {
                epoch: before.epoch,
                step,
                loss: Some(loss).filter(|_| epoch.batches > 0),
                metric_name: self.metric_name.clone(),
                metric,
                is_best,
                learning_rate,
                grad_norm: epoch.grad_norm.map(|norm| number(&norm)).transpose()?,
                skipped_steps,
                duration,
                samples: samples - before.samples,
            };
            (self.on_epoch)(&report);
            self.log_epoch(&report)?;
            if let Some(loss) = report.loss {
                self.run.send(StepReport::new(report.epoch, step).loss(loss));
            }
            stopped_early = self.should_stop();
            self.run.epoch_done()?;
        }
        if let Some(metrics) = self.metrics {
            metrics.flush()?;
        }
        self.run.save_at_end()?;
        Ok(Outcome { progress: self.run.progress(), metric: self.run.value.best, stopped_early })
    }

    /// What is left of an epoch.
    fn train_epoch<L, D>(
        &mut self,
        learner: &L,
        train: &DataLoader<D>,
        epochs: u64,
        guard: &mut LossGuard,
    ) -> Result<Epoch>
    where
        L: Learner,
        D: BatchDataset<Batch = L::Batch>,
    {
        let loss = Tensor::f_zeros([1i64; 0], (Kind::Double, self.run.context().device()));
        let loss = loss.map_err(Error::tch("training"))?;
        let mut epoch = Epoch { loss, batches: 0, grad_norm: None, skipped_steps: 0, overflows: None };
        let progress = self.run.progress();
        let mut batches = train.epoch(progress.epoch)?;
        let steps_of = |batches: usize| batches.div_ceil(self.accumulate) as u64;
        let later_epochs = epochs.saturating_sub(progress.epoch).saturating_sub(1);
        let later_steps = later_epochs.saturating_mul(steps_of(train.batches_per_epoch()));
        let steps = progress.step.saturating_add(steps_of(batches.size_hint().1.unwrap_or(0)));
        let all_steps = steps.saturating_add(later_steps);
        loop {
            // The batches of one step; all but the last leave the gradients where they are.
            let left = batches.size_hint().1.unwrap_or(0);
            let count = left.min(self.accumulate);
            if count == 0 {
                return Ok(epoch);
            }
            self.run.optimizer.zero_grad()?;
            let mut losses = Vec::with_capacity(count);
            for (i, batch) in batches.by_ref().take(count).enumerate() {
                let batch = batch?;
                let backward = || self.backward(learner, &batch, count);
                let loss = if i + 1 < count { self.ddp.no_sync(backward)? } else { backward()? };
                losses.push(loss);
            }
            let learning_rate = self.run.optimizer.learning_rate();
            if guard.check(&mean(&losses)?, self.run.step() + 1)? {
                losses.iter().for_each(|loss| epoch.loss += loss);
                epoch.batches += losses.len() as i64;
                self.step(&mut epoch)?;
            } else {
                epoch.skipped_steps += 1;
            }
            let (progress, samples) = self.run.count_step(train);
            let step = Step { number: progress.step, losses, learning_rate, samples };
            self.run.send(step.report(progress.epoch, &epoch).total_steps(all_steps));
            self.log_step(&step, &epoch)?;
            self.run.save_step()?;
        }
    }

    fn log_step(&self, step: &Step, sums: &Epoch) -> Result<()> {
        let Some(metrics) = self.metrics else { return Ok(()) };
        metrics.log("train/loss", &mean(&step.losses)?, step.number)?;
        metrics.log_rank0("train/learning_rate", step.learning_rate, step.number)?;
        metrics.throughput(step.samples, step.number)?;
        match &sums.grad_norm {
            Some(norm) => metrics.log_rank0("train/grad_norm", norm, step.number),
            None if step.number.is_multiple_of(GRAD_NORM_EVERY) => metrics.grad_norm(self.vs, step.number),
            None => Ok(()),
        }
    }

    /// All of it is the same on all ranks.
    fn log_epoch(&self, report: &EpochReport) -> Result<()> {
        let Some(metrics) = self.metrics else { return Ok(()) };
        for (name, value) in [("epoch/loss", report.loss), (&self.metric_name, report.metric)] {
            if let Some(value) = value {
                metrics.log_rank0(name, value, report.step)?;
            }
        }
        Ok(())
    }

    /// Adds a batch's share of the gradients; returns its loss, without a graph.
    fn backward<L: Learner>(&self, learner: &L, batch: &L::Batch, count: usize) -> Result<Tensor> {
        let loss = self.ddp.forward(|| match &self.autocast {
            Some(autocast) => autocast.run(|| learner.loss(batch)),
            None => learner.loss(batch),
        })?;
        // Accumulated, they are to be the gradients of the mean.
        let share = if count == 1 { loss.shallow_clone() } else { &loss / count as f64 };
        match &self.run.scaler {
            Some(scaler) => self.ddp.backward(&scaler.scale(&share)?)?,
            None => self.ddp.backward(&share)?,
        }
        loss.f_detach().map_err(Error::tch("training"))
    }

    /// The optimizer's step, and the scheduler's.
    fn step(&mut self, epoch: &mut Epoch) -> Result<()> {
        let run = &mut self.run;
        if let Some(scaler) = &mut run.scaler {
            scaler.unscale(&run.optimizer)?;
        }
        if let Some(clip_value) = self.clip_value {
            optim::clip_grad_value(self.vs, clip_value)?;
        }
        if let Some(max_norm) = self.clip_norm {
            epoch.grad_norm = Some(optim::clip_grad_norm(self.vs, max_norm, 2.0)?);
        }
        let stepped = match &mut run.scaler {
            Some(scaler) => {
                let stepped = scaler.step(&mut run.optimizer)?;
                scaler.update()?;
                stepped
            }
            None => run.optimizer.step().map(|()| Stepped::always())?,
        };
        match &mut run.scheduler.scheduler {
            // Only this needs to know it now.
            Some((scheduler, StepEvery::Step)) if stepped.was_taken()? => scheduler.step(&mut run.optimizer),
            _ => epoch.count(&stepped),
        }
    }

    /// The mean metric over the samples of all ranks.
    fn evaluate<L, D>(&self, learner: &L, test: &DataLoader<D, EvalSampler>) -> Result<f64>
    where
        L: Learner,
        D: BatchDataset<Batch = L::Batch>,
    {
        let _guard = tch::no_grad_guard();
        // A pass without anything in it makes the buffers rank 0's.
        let device = self.run.context().device();
        let _ = self.ddp.forward(|| Tensor::zeros([1i64; 0], (Kind::Float, device)))?;
        let mut sum = Tensor::f_zeros([1i64; 0], (Kind::Double, device)).map_err(Error::tch("evaluating"))?;
        let mut count = 0;
        let mut outcome = Ok(());
        for batch in test.epoch(0)? {
            let metric = batch.and_then(|batch| {
                let metric = match &self.autocast {
                    Some(autocast) => autocast.run(|| learner.metric(&batch)),
                    None => learner.metric(&batch),
                };
                metric.ok_or_else(|| Error::Invalid("evaluation needs a learner with a metric".into()))
            });
            match metric {
                Ok((part, samples)) => (sum, count) = (sum + part, count + samples),
                Err(err) => outcome = Err(err),
            }
        }
        // Ranks have different numbers of batches, so the first to fail tells the others here.
        self.run.context().group().agree("evaluating", outcome)?;
        mean_over_ranks(self.run.context().group(), &sum, count)
    }

    fn should_stop(&self) -> bool {
        self.patience.is_some_and(|patience| self.run.value.bad_epochs > patience)
    }
}

/// The mean loss of a step's batches.
fn mean(losses: &[Tensor]) -> Result<Tensor> {
    match losses {
        [loss] => Ok(loss.shallow_clone()),
        losses => {
            Tensor::f_stack(losses, 0).and_then(|losses| losses.f_mean(Kind::Double)).map_err(Error::tch("training"))
        }
    }
}

fn nothing_to_train(progress: Progress, epochs: u64, stopped_early: bool) -> String {
    let Progress { epoch, step, .. } = progress;
    let why = match (step, stopped_early) {
        (0, _) => format!("{epochs} epochs were requested"),
        (_, false) => format!("the run is finished, with {epoch} of {epochs} epochs done at step {step}"),
        (_, true) => format!("the run stopped early, with {epoch} of {epochs} epochs done at step {step}"),
    };
    format!("note: nothing to train: {why}; set more epochs or patience, or use a different snapshot folder")
}

fn number(tensor: &Tensor) -> Result<f64> {
    tensor.f_double_value(&[]).map_err(Error::tch("reading a number"))
}
