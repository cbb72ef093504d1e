//! `CosineAnnealingLr`, and `CosineAnnealingWarmRestartsLr`, which starts over after each cycle.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schedule::each;
use super::{Schedule, Scheduler, exact, state};
use crate::{Error, Result};

/// Goes from the base rate to `eta_min` in half a cosine of `t_max` epochs, and back if it continues:
/// `torch.optim.lr_scheduler.CosineAnnealingLR` (Loshchilov and Hutter, SGDR, 2017).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CosineAnnealing {
    /// Epochs from the highest to the lowest rate, at least 1.
    pub t_max: u64,
    /// The lowest rate: 0.
    #[serde(with = "exact")]
    pub eta_min: f64,
}

/// A scheduler with the rule [`CosineAnnealing`].
pub type CosineAnnealingLr = Scheduler<CosineAnnealing>;

impl CosineAnnealing {
    /// Down to 0 in `t_max` epochs.
    pub fn new(t_max: u64) -> Self {
        Self { t_max, eta_min: 0.0 }
    }
}

impl Schedule for CosineAnnealing {
    fn name(&self) -> &'static str {
        "CosineAnnealingLR"
    }

    fn check(&self) -> Result<()> {
        // PyTorch fails at the first step, by a division by zero.
        if self.t_max == 0 {
            return Err(Error::Invalid("CosineAnnealingLR: t_max must be at least 1".into()));
        }
        Ok(())
    }

    fn first(&self, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(lrs.to_vec())
    }

    fn next(&self, epoch: u64, lrs: &[f64], base_lrs: &[f64]) -> Result<Vec<f64>> {
        let Self { t_max, eta_min } = *self;
        let period = t_max as f64;
        // The epoch before was at the bottom, from where no factor leads up.
        let bottom = (epoch - 1) / t_max;
        if (epoch - 1).is_multiple_of(t_max) && !bottom.is_multiple_of(2) {
            let up =
                lrs.iter().zip(base_lrs).map(|(lr, base)| lr + (base - eta_min) * (1.0 - (PI / period).cos()) / 2.0);
            return Ok(up.collect());
        }
        let now = 1.0 + (PI * epoch as f64 / period).cos();
        let before = 1.0 + (PI * (epoch - 1) as f64 / period).cos();
        Ok(each(lrs, |lr| now / before * (lr - eta_min) + eta_min))
    }

    fn restart(&self, base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(each(base_lrs, |base| annealed(base, self.eta_min, 0.0)))
    }

    fn settings(&self) -> Value {
        state::to_json(self)
    }

    fn load_settings(&mut self, settings: &Value) -> Result<()> {
        state::load_settings(self, settings)
    }
}

/// Goes from the base rate to `eta_min` in half a cosine again and again, each time `t_mult` times as long:
/// `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts` (Loshchilov and Hutter, SGDR, 2017).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CosineAnnealingWarmRestarts {
    /// Epochs before the first restart, at least 1.
    pub t_0: u64,
    /// How much longer each period is than the one before, at least 1: 1.
    pub t_mult: u64,
    /// The lowest rate: 0.
    #[serde(with = "exact")]
    pub eta_min: f64,
}

/// A scheduler with the rule [`CosineAnnealingWarmRestarts`].
pub type CosineAnnealingWarmRestartsLr = Scheduler<CosineAnnealingWarmRestarts>;

impl CosineAnnealingWarmRestarts {
    /// Down to 0 every `t_0` epochs.
    pub fn new(t_0: u64) -> Self {
        Self { t_0, t_mult: 1, eta_min: 0.0 }
    }

    /// The epochs since the last restart, and those of the period (PyTorch's `T_cur` and `T_i`).
    fn place(&self, epoch: u64) -> (u64, u64) {
        if self.t_mult == 1 {
            return (epoch % self.t_0, self.t_0);
        }
        let (mut since, mut period) = (epoch, self.t_0);
        while since >= period {
            since -= period;
            period = period.saturating_mul(self.t_mult);
        }
        (since, period)
    }
}

impl Schedule for CosineAnnealingWarmRestarts {
    fn name(&self) -> &'static str {
        "CosineAnnealingWarmRestarts"
    }

    fn check(&self) -> Result<()> {
        if self.t_0 == 0 || self.t_mult == 0 {
            return Err(Error::Invalid("CosineAnnealingWarmRestarts: t_0 and t_mult must be at least 1".into()));
        }
        Ok(())
    }

    fn first(&self, _lrs: &[f64], base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(each(base_lrs, |base| annealed(base, self.eta_min, 0.0)))
    }

    fn next(&self, epoch: u64, _lrs: &[f64], base_lrs: &[f64]) -> Result<Vec<f64>> {
        let (since, period) = self.place(epoch);
        Ok(each(base_lrs, |base| annealed(base, self.eta_min, PI * since as f64 / period as f64)))
    }

    fn settings(&self) -> Value {
        state::to_json(self)
    }

    fn load_settings(&mut self, settings: &Value) -> Result<()> {
        state::load_settings(self, settings)
    }
}

/// At an angle from 0 (the base rate) to pi (the lowest).
fn annealed(base: f64, eta_min: f64, angle: f64) -> f64 {
    eta_min + (base - eta_min) * (1.0 + angle.cos()) / 2.0
}
