//! `ReduceLrOnPlateau`: a learning rate that falls when a metric stops improving.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schedule::each;
use super::{exact, state};
use crate::train::optim::Optimizer;
use crate::train::state_dict::StateDict;
use crate::train::stateful::Stateful;
use crate::{Error, Result};

/// Which metrics are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlateauMode {
    /// Small ones, such as a loss.
    Min,
    /// Large ones, such as an accuracy.
    Max,
}

/// What [`ReduceLrOnPlateauOptions::threshold`] is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThresholdMode {
    /// Fractions of the best metric.
    Rel,
    /// The metric's own units.
    Abs,
}

/// Settings of [`ReduceLrOnPlateau`], with PyTorch's names and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReduceLrOnPlateauOptions {
    /// Which metrics are better: small ones.
    pub mode: PlateauMode,
    /// The factor of a reduction, below 1: 0.1.
    #[serde(with = "exact")]
    pub factor: f64,
    /// Epochs in a row without a better metric that are still put up with: 10.
    pub patience: u64,
    /// By how much a metric must be better to count: 1e-4.
    #[serde(with = "exact")]
    pub threshold: f64,
    /// What the threshold is measured in: fractions.
    pub threshold_mode: ThresholdMode,
    /// Epochs after a reduction in which nothing is counted: 0.
    pub cooldown: u64,
    /// The lowest rate: 0.
    #[serde(with = "exact")]
    pub min_lr: f64,
    /// A reduction by less than this is not made: 1e-8.
    #[serde(with = "exact")]
    pub eps: f64,
}

impl Default for ReduceLrOnPlateauOptions {
    fn default() -> Self {
        Self {
            mode: PlateauMode::Min,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_mode: ThresholdMode::Rel,
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
        }
    }
}

/// Reduces the rate when a metric no longer gets better: `torch.optim.lr_scheduler.ReduceLROnPlateau`.
///
/// Every rank must give the same metric, such as a loss averaged over the ranks: ranks with different learning rates
/// would drift apart.
#[derive(Debug)]
pub struct ReduceLrOnPlateau {
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    kind: String,
    settings: ReduceLrOnPlateauOptions,
    last_epoch: u64,
    #[serde(with = "exact")]
    best: f64,
    cooldown_counter: u64,
    num_bad_epochs: u64,
    #[serde(with = "exact::list")]
    last_lrs: Vec<f64>,
}

const NAME: &str = "ReduceLROnPlateau";
/// The value's name in a snapshot.
const PLATEAU: &str = "plateau";

impl ReduceLrOnPlateau {
    /// A scheduler that has seen no metric. The optimizer keeps its learning rate.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a factor that is not below 1.
    pub fn new(optimizer: &dyn Optimizer, options: ReduceLrOnPlateauOptions) -> Result<Self> {
        options.check()?;
        let best = match options.mode {
            PlateauMode::Min => f64::INFINITY,
            PlateauMode::Max => f64::NEG_INFINITY,
        };
        let state = State {
            kind: NAME.to_owned(),
            settings: options,
            last_epoch: 0,
            best,
            cooldown_counter: 0,
            num_bad_epochs: 0,
            last_lrs: optimizer.learning_rates(),
        };
        Ok(Self { state })
    }

    /// Takes the metric of an epoch, and reduces the optimizer's learning rate if it is time.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an optimizer with another number of parameter groups.
    pub fn step_with(&mut self, metric: f64, optimizer: &mut dyn Optimizer) -> Result<()> {
        let state = &mut self.state;
        let ReduceLrOnPlateauOptions { factor, patience, cooldown, min_lr, eps, .. } = state.settings;
        state.last_epoch += 1;
        if state.settings.is_better(metric, state.best) {
            state.best = metric;
            state.num_bad_epochs = 0;
        } else {
            state.num_bad_epochs += 1;
        }
        if state.cooldown_counter > 0 {
            state.cooldown_counter -= 1;
            state.num_bad_epochs = 0;
        }
        let mut lrs = optimizer.learning_rates();
        if state.num_bad_epochs > patience {
            lrs = each(&lrs, |old| {
                let reduced = old * factor;
                // Python's `max`, which keeps a NaN that comes first.
                let new = if min_lr > reduced { min_lr } else { reduced };
                if old - new > eps { new } else { old }
            });
            optimizer.set_learning_rates(&lrs)?;
            state.cooldown_counter = cooldown;
            state.num_bad_epochs = 0;
        }
        state.last_lrs = lrs;
        Ok(())
    }

    /// The optimizer's learning rate after the last step.
    pub fn last_lr(&self) -> f64 {
        self.state.last_lrs[0]
    }
}

/// The value `plateau`.
impl Stateful for ReduceLrOnPlateau {
    fn state_dict(&self) -> Result<StateDict> {
        StateDict::new().with(PLATEAU, &self.state)
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let state: Value = state.require(PLATEAU)?;
        if state["kind"] != NAME {
            return Err(state::mismatch(format!("expected {NAME}, found {}", state["kind"])));
        }
        let loaded: State = state::from_json(&state)?;
        let (theirs, ours) = (loaded.last_lrs.len(), self.state.last_lrs.len());
        if theirs != ours {
            return Err(state::mismatch(format!("it has {theirs} learning rates for {ours} parameter groups")));
        }
        loaded.settings.check().map_err(|err| state::mismatch(err.to_string()))?;
        self.state = loaded;
        Ok(())
    }

    fn restore_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        optimizer.set_learning_rates(&self.state.last_lrs)
    }
}

impl ReduceLrOnPlateauOptions {
    fn check(&self) -> Result<()> {
        if self.factor < 1.0 {
            return Ok(());
        }
        Err(Error::Invalid(format!("{NAME}: factor must be below 1, not {}", self.factor)))
    }

    fn is_better(&self, metric: f64, best: f64) -> bool {
        let threshold = self.threshold;
        match (self.mode, self.threshold_mode) {
            (PlateauMode::Min, ThresholdMode::Rel) => metric < best * (1.0 - threshold),
            (PlateauMode::Min, ThresholdMode::Abs) => metric < best - threshold,
            (PlateauMode::Max, ThresholdMode::Rel) => metric > best * (threshold + 1.0),
            (PlateauMode::Max, ThresholdMode::Abs) => metric > best + threshold,
        }
    }
}
