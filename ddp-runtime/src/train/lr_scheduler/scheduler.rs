//! `Scheduler`: applies a `Schedule` to an optimizer and saves its state.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{LrScheduler, Schedule, exact, set, state};
use crate::Result;
use crate::train::optim::Optimizer;
use crate::train::state_dict::StateDict;
use crate::train::stateful::Stateful;

/// The value's name in a snapshot.
const SCHEDULER: &str = "scheduler";

/// Applies a [`Schedule`] to an optimizer. [`StepLr`](super::StepLr) and the others are names for it.
#[derive(Debug)]
pub struct Scheduler<S> {
    schedule: S,
    rates: LearningRates,
}

#[derive(Debug, Serialize, Deserialize)]
struct LearningRates {
    last_epoch: u64,
    #[serde(with = "exact::list")]
    base_lrs: Vec<f64>,
    #[serde(with = "exact::list")]
    last_lrs: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct State<P> {
    kind: String,
    settings: Value,
    #[serde(flatten)]
    rates: P,
}

impl<S: Schedule> Scheduler<S> {
    /// A scheduler at epoch 0, whose learning rate the optimizer gets. The rate it had is the base of the schedule.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for settings that make no schedule; then the optimizer is unchanged.
    pub fn new(optimizer: &mut dyn Optimizer, schedule: S) -> Result<Self> {
        schedule.check()?;
        let lrs = optimizer.learning_rates();
        let base_lrs = schedule.base_lrs(&lrs);
        let last_lrs = schedule.first(&lrs, &base_lrs)?;
        set(optimizer, &last_lrs, schedule.momentum(0)?)?;
        Ok(Self { schedule, rates: LearningRates { last_epoch: 0, base_lrs, last_lrs } })
    }

    /// The steps that were taken.
    pub fn last_epoch(&self) -> u64 {
        self.rates.last_epoch
    }

    /// The rule and its settings.
    pub fn schedule(&self) -> &S {
        &self.schedule
    }
}

impl<S: Schedule> LrScheduler for Scheduler<S> {
    fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        let epoch = self.rates.last_epoch + 1;
        let lrs = self.schedule.next(epoch, &optimizer.learning_rates(), &self.rates.base_lrs)?;
        set(optimizer, &lrs, self.schedule.momentum(epoch)?)?;
        self.rates.last_epoch = epoch;
        self.rates.last_lrs = lrs;
        Ok(())
    }

    fn last_lrs(&self) -> &[f64] {
        &self.rates.last_lrs
    }

    fn last_momentum(&self) -> Option<f64> {
        self.schedule.momentum(self.rates.last_epoch).ok().flatten()
    }
}

impl<S: Schedule> Stateful for Scheduler<S> {
    fn state_dict(&self) -> Result<StateDict> {
        let (kind, settings) = (self.schedule.name().to_owned(), self.schedule.settings());
        StateDict::new().with(SCHEDULER, &State { kind, settings, rates: &self.rates })
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let State { kind, settings, rates } = state::from_json::<State<LearningRates>>(&state.require(SCHEDULER)?)?;
        if kind != self.schedule.name() {
            return Err(state::mismatch(format!("expected {}, found {kind}", self.schedule.name())));
        }
        let groups = self.rates.base_lrs.len();
        for lrs in [&rates.base_lrs, &rates.last_lrs] {
            if lrs.len() != groups {
                return Err(state::mismatch(format!(
                    "it has {} learning rates for {groups} parameter groups",
                    lrs.len()
                )));
            }
        }
        self.schedule.load_settings(&settings)?;
        self.rates = rates;
        Ok(())
    }

    fn restore_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        set(optimizer, &self.rates.last_lrs, self.last_momentum())
    }
}
