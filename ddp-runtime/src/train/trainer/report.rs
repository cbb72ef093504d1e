//! What a `Trainer` reports after each epoch and at its end.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Goal, Progress};

/// What an epoch of a [`Trainer`](super::Trainer) came to. The same on all ranks, but for the time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EpochReport {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Optimizer steps done, over all epochs.
    pub step: u64,
    /// The mean loss over all batches of all ranks; of what was left of the epoch, after a resume in its middle. `None` if
    /// nothing was.
    pub loss: Option<f64>,
    /// What the metric is called: [`Trainer::metric_name`](super::Trainer::metric_name).
    pub metric_name: String,
    /// The mean metric over the samples of all ranks, if there was an evaluation.
    pub metric: Option<f64>,
    /// Whether the metric is the best so far.
    pub is_best: bool,
    /// The learning rate of the first parameter group at the end of its training.
    pub learning_rate: f64,
    /// The norm of the gradients in the last step, before they were clipped, if they were.
    pub grad_norm: Option<f64>,
    /// Steps that were left out because a gradient was not finite, or the loss ([`NonFinite::Skip`](crate::NonFinite::Skip)).
    pub skipped_steps: u64,
    /// How long training took, without the evaluation.
    pub duration: Duration,
    /// Samples that all ranks together have trained on in that time.
    pub samples: u64,
}

impl fmt::Display for EpochReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {:>3}", self.epoch + 1)?;
        if let Some(loss) = self.loss {
            write!(f, "  loss {loss:.6}")?;
        }
        if let Some(metric) = self.metric {
            let name = self.metric_name.rsplit('/').next().unwrap_or_default();
            write!(f, "  {name} {metric:.6}{}", if self.is_best { " (best)" } else { "" })?;
        }
        // With the rank before it, this fits in 80 columns; the launcher shows the rest.
        write!(f, "  lr {:.2e}", self.learning_rate)?;
        if self.skipped_steps > 0 {
            write!(f, "  {} steps skipped", self.skipped_steps)?;
        }
        write!(f, "  {:.1} s", self.duration.as_secs_f64())
    }
}

/// How [`Trainer::fit`](super::Trainer::fit) ended.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// The progress of the run.
    pub progress: Progress,
    /// The best metric, if there was an evaluation.
    pub metric: Option<f64>,
    /// Whether it stopped before the last epoch, as the metric was no longer better.
    pub stopped_early: bool,
}

/// The metrics of the evaluations so far: part of a snapshot.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Scores {
    pub(super) best: Option<f64>,
    pub(super) last: Option<f64>,
    /// Epochs in a row that were not better.
    pub(super) bad_epochs: u64,
}

impl Scores {
    /// Records the metric of an epoch. Returns whether it is the best so far.
    pub(super) fn record(&mut self, metric: f64, best: Goal) -> bool {
        let is_better = self.best.is_none_or(|so_far| match best {
            Goal::Minimize => metric < so_far,
            Goal::Maximize => metric > so_far,
        });
        self.last = Some(metric);
        if is_better && !metric.is_nan() {
            self.best = Some(metric);
            self.bad_epochs = 0;
        } else {
            self.bad_epochs += 1;
        }
        self.bad_epochs == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_metric_is_never_the_best() {
        let mut metrics = Scores::default();
        assert!(!metrics.record(f64::NAN, Goal::Maximize));
        assert!(metrics.record(0.5, Goal::Maximize));
        assert!(!metrics.record(f64::NAN, Goal::Maximize));
        assert!(!metrics.record(0.5, Goal::Maximize));
        assert_eq!((metrics.best, metrics.bad_epochs), (Some(0.5), 2));
        assert!(metrics.record(0.4, Goal::Minimize));
    }
}
