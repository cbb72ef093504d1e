//! `StepLr`, `MultiStepLr` and `ExponentialLr`: learning rates that fall by a factor.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schedule::each;
use super::{Schedule, Scheduler, exact, state};
use crate::{Error, Result};

/// Multiplies the rate by `gamma` every `step_size` epochs: `torch.optim.lr_scheduler.StepLR`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Epochs between two changes, at least 1.
    pub step_size: u64,
    /// The factor: 0.1.
    #[serde(with = "exact")]
    pub gamma: f64,
}

/// A scheduler with the rule [`Step`].
pub type StepLr = Scheduler<Step>;

impl Step {
    /// A tenth of the rate every `step_size` epochs.
    pub fn new(step_size: u64) -> Self {
        Self { step_size, gamma: 0.1 }
    }
}

impl Schedule for Step {
    fn name(&self) -> &'static str {
        "StepLR"
    }

    fn check(&self) -> Result<()> {
        // PyTorch fails at the first step, by a division by zero.
        if self.step_size == 0 {
            return Err(Error::Invalid("StepLR: step_size must be at least 1".into()));
        }
        Ok(())
    }

    fn first(&self, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(lrs.to_vec())
    }

    fn next(&self, epoch: u64, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        if !epoch.is_multiple_of(self.step_size) {
            return Ok(lrs.to_vec());
        }
        Ok(each(lrs, |lr| lr * self.gamma))
    }

    fn settings(&self) -> Value {
        state::to_json(self)
    }

    fn load_settings(&mut self, settings: &Value) -> Result<()> {
        state::load_settings(self, settings)
    }
}

/// Multiplies the rate by `gamma` at each milestone: `torch.optim.lr_scheduler.MultiStepLR`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MultiStep {
    /// Epochs at which the rate changes, in any order; an epoch that is listed twice counts twice.
    pub milestones: Vec<u64>,
    /// The factor: 0.1.
    #[serde(with = "exact")]
    pub gamma: f64,
}

/// A scheduler with the rule [`MultiStep`].
pub type MultiStepLr = Scheduler<MultiStep>;

impl MultiStep {
    /// A tenth of the rate at each milestone.
    pub fn new(milestones: impl Into<Vec<u64>>) -> Self {
        Self { milestones: milestones.into(), gamma: 0.1 }
    }

    fn at(&self, epoch: u64, lrs: &[f64]) -> Vec<f64> {
        let times = self.milestones.iter().filter(|&&milestone| milestone == epoch).count();
        if times == 0 {
            return lrs.to_vec();
        }
        // Python's `**` is libm's `pow`, and so is `powf`; `powi` rounds otherwise.
        each(lrs, |lr| lr * self.gamma.powf(times as f64))
    }
}

impl Schedule for MultiStep {
    fn name(&self) -> &'static str {
        "MultiStepLR"
    }

    fn first(&self, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(self.at(0, lrs))
    }

    fn next(&self, epoch: u64, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(self.at(epoch, lrs))
    }

    fn settings(&self) -> Value {
        state::to_json(self)
    }

    fn load_settings(&mut self, settings: &Value) -> Result<()> {
        state::load_settings(self, settings)
    }
}

/// Multiplies the rate by `gamma` every epoch: `torch.optim.lr_scheduler.ExponentialLR`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exponential {
    /// The factor.
    #[serde(with = "exact")]
    pub gamma: f64,
}

/// A scheduler with the rule [`Exponential`].
pub type ExponentialLr = Scheduler<Exponential>;

impl Schedule for Exponential {
    fn name(&self) -> &'static str {
        "ExponentialLR"
    }

    fn first(&self, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(lrs.to_vec())
    }

    fn next(&self, _epoch: u64, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(each(lrs, |lr| lr * self.gamma))
    }

    fn settings(&self) -> Value {
        state::to_json(self)
    }

    fn load_settings(&mut self, settings: &Value) -> Result<()> {
        state::load_settings(self, settings)
    }
}
