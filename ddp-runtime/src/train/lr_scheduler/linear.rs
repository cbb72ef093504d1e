//! `LinearLr`: a learning rate that changes linearly, for a warm-up.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schedule::each;
use super::{Schedule, Scheduler, exact, state};
use crate::{Error, Result};

/// Goes from one fraction of the base rate to another in a straight line, and stays there:
/// `torch.optim.lr_scheduler.LinearLR`. The usual warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// The fraction at epoch 0, above 0 and at most 1: 1/3.
    #[serde(with = "exact")]
    pub start_factor: f64,
    /// The fraction from epoch `total_iters` on, from 0 to 1: 1.
    #[serde(with = "exact")]
    pub end_factor: f64,
    /// Epochs on the way: 5.
    pub total_iters: u64,
}

/// A scheduler with the rule [`Linear`].
pub type LinearLr = Scheduler<Linear>;

impl Default for Linear {
    fn default() -> Self {
        Self { start_factor: 1.0 / 3.0, end_factor: 1.0, total_iters: 5 }
    }
}

impl Schedule for Linear {
    fn name(&self) -> &'static str {
        "LinearLR"
    }

    fn check(&self) -> Result<()> {
        let Self { start_factor, end_factor, .. } = *self;
        if !(start_factor > 0.0 && start_factor <= 1.0) {
            let problem = format!("LinearLR: start_factor must be above 0 and at most 1, not {start_factor}");
            return Err(Error::Invalid(problem));
        }
        if !(0.0..=1.0).contains(&end_factor) {
            return Err(Error::Invalid(format!("LinearLR: end_factor must be from 0 to 1, not {end_factor}")));
        }
        Ok(())
    }

    fn first(&self, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(each(lrs, |lr| lr * self.start_factor))
    }

    fn next(&self, epoch: u64, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        let Self { start_factor: start, end_factor: end, total_iters } = *self;
        if epoch > total_iters {
            return Ok(lrs.to_vec());
        }
        let previous = total_iters as f64 * start + (epoch - 1) as f64 * (end - start);
        Ok(each(lrs, |lr| lr * (1.0 + (end - start) / previous)))
    }

    fn restart(&self, base_lrs: &[f64]) -> Result<Vec<f64>> {
        // PyTorch fails here by a division by zero.
        if self.total_iters == 0 {
            return Err(Error::Invalid("LinearLR: total_iters must be at least 1 after another schedule".into()));
        }
        self.first(base_lrs, base_lrs)
    }

    fn settings(&self) -> Value {
        state::to_json(self)
    }

    fn load_settings(&mut self, settings: &Value) -> Result<()> {
        state::load_settings(self, settings)
    }
}
