//! `OneCycleLr`: a learning rate that rises and falls once, with the momentum against it.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Schedule, Scheduler, exact, state};
use crate::{Error, Result};

/// How [`OneCycle`] goes from one rate to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnnealStrategy {
    /// Half a cosine.
    Cos,
    /// A straight line.
    Linear,
}

/// The momentum's way through a [`OneCycle`], against the learning rate: from `max` down to `base` and up again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CycleMomentum {
    /// The lowest momentum: 0.85.
    #[serde(with = "exact")]
    pub base: f64,
    /// The highest momentum: 0.95.
    #[serde(with = "exact")]
    pub max: f64,
}

impl Default for CycleMomentum {
    fn default() -> Self {
        Self { base: 0.85, max: 0.95 }
    }
}

/// Up to `max_lr` and down again, far below the start, stepped once per batch: `torch.optim.lr_scheduler.OneCycleLR`
/// (Smith and Topin, Super-Convergence, 2018).
///
/// The optimizer's own rate is not used: the cycle starts at `max_lr / div_factor`. It has `total_steps` rates; PyTorch
/// allows one step beyond, and so does this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneCycle {
    /// The highest rate.
    #[serde(with = "exact")]
    pub max_lr: f64,
    /// Steps in the cycle, at least 1 (epochs times batches per epoch).
    pub total_steps: u64,
    /// The part of the cycle that goes up, from 0 to 1: 0.3.
    #[serde(with = "exact")]
    pub pct_start: f64,
    /// How rates are joined: by a cosine.
    pub anneal_strategy: AnnealStrategy,
    /// The first rate is `max_lr / div_factor`: 25.
    #[serde(with = "exact")]
    pub div_factor: f64,
    /// The last rate is the first one by this: 1e4.
    #[serde(with = "exact")]
    pub final_div_factor: f64,
    /// Down to the first rate as fast as up, and then on to the last, instead of straight to the last: off.
    pub three_phase: bool,
    /// How the momentum (Adam's first beta) goes; `None` leaves it alone (`cycle_momentum=False`): from 0.95 to 0.85 and
    /// back.
    pub momentum: Option<CycleMomentum>,
}

/// A scheduler with the rule [`OneCycle`].
pub type OneCycleLr = Scheduler<OneCycle>;

/// From one rate (and momentum) to another, until a step.
struct Phase {
    end: f64,
    rates: (f64, f64),
    momenta: (f64, f64),
}

impl OneCycle {
    /// PyTorch's defaults for all else.
    pub fn new(max_lr: f64, total_steps: u64) -> Self {
        Self {
            max_lr,
            total_steps,
            pct_start: 0.3,
            anneal_strategy: AnnealStrategy::Cos,
            div_factor: 25.0,
            final_div_factor: 1e4,
            three_phase: false,
            momentum: Some(CycleMomentum::default()),
        }
    }

    fn initial_lr(&self) -> f64 {
        self.max_lr / self.div_factor
    }

    fn phases(&self) -> Vec<Phase> {
        let (initial, max) = (self.initial_lr(), self.max_lr);
        let min = initial / self.final_div_factor;
        let steps = self.total_steps as f64;
        let CycleMomentum { base: slow, max: fast } = self.momentum.unwrap_or_default();
        let up = Phase { end: self.pct_start * steps - 1.0, rates: (initial, max), momenta: (fast, slow) };
        let last = (self.total_steps - 1) as f64;
        if self.three_phase {
            let end = 2.0 * self.pct_start * steps - 2.0;
            let down = Phase { end, rates: (max, initial), momenta: (slow, fast) };
            vec![up, down, Phase { end: last, rates: (initial, min), momenta: (fast, fast) }]
        } else {
            vec![up, Phase { end: last, rates: (max, min), momenta: (slow, fast) }]
        }
    }

    /// The rate and the momentum of a step.
    fn at(&self, step: u64) -> Result<(f64, f64)> {
        if step > self.total_steps {
            let problem = format!("OneCycleLR: step {step} is beyond total_steps {}", self.total_steps);
            return Err(Error::Invalid(problem));
        }
        let step = step as f64;
        let phases = self.phases();
        // The last phase takes the step beyond the cycle too.
        let index = phases.iter().position(|phase| step <= phase.end).unwrap_or(phases.len() - 1);
        let start = if index == 0 { 0.0 } else { phases[index - 1].end };
        let Phase { end, rates, momenta } = phases[index];
        if end == start {
            let Self { pct_start, total_steps, .. } = self;
            let problem = format!(
                "OneCycleLR: step {step} is in a phase of length 0 (pct_start {pct_start}, total_steps {total_steps})"
            );
            return Err(Error::Invalid(problem));
        }
        let pct = (step - start) / (end - start);
        let between = |(from, to): (f64, f64)| match self.anneal_strategy {
            AnnealStrategy::Cos => to + (from - to) / 2.0 * ((PI * pct).cos() + 1.0),
            AnnealStrategy::Linear => (to - from) * pct + from,
        };
        Ok((between(rates), between(momenta)))
    }
}

impl Schedule for OneCycle {
    fn name(&self) -> &'static str {
        "OneCycleLR"
    }

    fn check(&self) -> Result<()> {
        let Self { total_steps, pct_start, div_factor, final_div_factor, .. } = *self;
        if total_steps == 0 {
            return Err(Error::Invalid("OneCycleLR: total_steps must be at least 1".into()));
        }
        if !(0.0..=1.0).contains(&pct_start) {
            return Err(Error::Invalid(format!("OneCycleLR: pct_start must be from 0 to 1, not {pct_start}")));
        }
        if div_factor == 0.0 || final_div_factor == 0.0 {
            return Err(Error::Invalid("OneCycleLR: div_factor and final_div_factor must not be 0".into()));
        }
        Ok(())
    }

    fn base_lrs(&self, lrs: &[f64]) -> Vec<f64> {
        vec![self.initial_lr(); lrs.len()]
    }

    fn first(&self, lrs: &[f64], base_lrs: &[f64]) -> Result<Vec<f64>> {
        self.next(0, lrs, base_lrs)
    }

    fn next(&self, epoch: u64, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        Ok(vec![self.at(epoch)?.0; lrs.len()])
    }

    fn momentum(&self, epoch: u64) -> Result<Option<f64>> {
        self.momentum.map(|_| Ok(self.at(epoch)?.1)).transpose()
    }

    fn settings(&self) -> Value {
        state::to_json(self)
    }

    fn load_settings(&mut self, settings: &Value) -> Result<()> {
        state::load_settings(self, settings)
    }
}
