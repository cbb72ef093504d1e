//! `SequentialLr`: several schedules, one after another.

use serde_json::{Value, json};

use super::{LrScheduler, Schedule, Scheduler, state};
use crate::train::optim::Optimizer;
use crate::train::state_dict::StateDict;
use crate::train::stateful::Stateful;
use crate::{Error, Result};

/// One schedule after another, each counting its epochs from its milestone on:
/// `torch.optim.lr_scheduler.SequentialLR`.
///
/// A [`OneCycle`](super::OneCycle) among the schedules sets the base rate of those behind it, and the rate that the first
/// one starts from, as in PyTorch. Of two of them PyTorch gives the first the second's rates; here each has its own.
#[derive(Debug)]
pub struct SequentialLr(Scheduler<Sequence>);

impl SequentialLr {
    /// A scheduler at epoch 0, whose learning rate the optimizer gets. Schedule `i + 1` takes over at epoch
    /// `milestones[i]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there is one milestone less than schedules, the milestones rise, and each schedule's
    /// settings make one; then the optimizer is unchanged.
    pub fn new(
        optimizer: &mut dyn Optimizer,
        schedules: impl Into<Vec<Box<dyn Schedule>>>,
        milestones: impl Into<Vec<u64>>,
    ) -> Result<Self> {
        let sequence = Sequence { schedules: schedules.into(), milestones: milestones.into() };
        Ok(Self(Scheduler::new(optimizer, sequence)?))
    }

    /// The steps that were taken.
    pub fn last_epoch(&self) -> u64 {
        self.0.last_epoch()
    }
}

impl LrScheduler for SequentialLr {
    fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.0.step(optimizer)
    }

    fn last_lrs(&self) -> &[f64] {
        self.0.last_lrs()
    }

    fn last_momentum(&self) -> Option<f64> {
        self.0.last_momentum()
    }
}

impl Stateful for SequentialLr {
    fn state_dict(&self) -> Result<StateDict> {
        self.0.state_dict()
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        self.0.load_state_dict(state)
    }

    fn restore_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.0.restore_optimizer(optimizer)
    }
}

/// Private, so that no sequence is put into another: PyTorch fails at its milestone, or counts its epochs twice.
#[derive(Debug)]
struct Sequence {
    schedules: Vec<Box<dyn Schedule>>,
    milestones: Vec<u64>,
}

impl Sequence {
    /// Which schedule has the epoch, and at which of its own.
    fn place(&self, epoch: u64) -> (usize, u64) {
        let index = self.milestones.partition_point(|&milestone| milestone <= epoch);
        let start = if index == 0 { 0 } else { self.milestones[index - 1] };
        (index, epoch - start)
    }

    /// What the schedules up to an index make of the optimizer's rates, in PyTorch by their constructors.
    fn bases(&self, last: usize, lrs: &[f64]) -> Vec<f64> {
        self.schedules[..=last].iter().fold(lrs.to_vec(), |lrs, schedule| schedule.base_lrs(&lrs))
    }

    fn load(&mut self, settings: &Value) -> Result<()> {
        let parts = settings["schedules"].as_array().filter(|parts| parts.len() == self.schedules.len());
        let Some(parts) = parts else {
            return Err(state::mismatch(format!("expected {} schedules", self.schedules.len())));
        };
        for (schedule, part) in self.schedules.iter_mut().zip(parts) {
            if part["kind"] != schedule.name() {
                return Err(state::mismatch(format!("expected {}, found {}", schedule.name(), part["kind"])));
            }
            schedule.load_settings(&part["settings"])?;
        }
        self.milestones = state::from_json(&settings["milestones"])?;
        self.check().map_err(|err| state::mismatch(err.to_string()))
    }
}

impl Schedule for Sequence {
    fn name(&self) -> &'static str {
        "SequentialLR"
    }

    fn check(&self) -> Result<()> {
        let (schedules, milestones) = (self.schedules.len(), self.milestones.len());
        if schedules == 0 {
            return Err(Error::Invalid("SequentialLR: expected at least one schedule".into()));
        }
        if milestones != schedules - 1 {
            let problem =
                format!("SequentialLR: {schedules} schedules need {} milestones, not {milestones}", schedules - 1);
            return Err(Error::Invalid(problem));
        }
        if !self.milestones.is_sorted() {
            return Err(Error::Invalid("SequentialLR: milestones must increase".into()));
        }
        for (index, schedule) in self.schedules.iter().enumerate() {
            schedule.check()?;
            if index > 0 {
                // What could only fail at its milestone fails now; the rate is of no matter.
                schedule.restart(&[1.0])?;
            }
        }
        Ok(())
    }

    fn first(&self, lrs: &[f64], _base_lrs: &[f64]) -> Result<Vec<f64>> {
        let (index, _) = self.place(0);
        let initial = self.bases(self.schedules.len() - 1, lrs);
        self.schedules[index].first(&initial, &self.bases(index, lrs))
    }

    fn next(&self, epoch: u64, lrs: &[f64], base_lrs: &[f64]) -> Result<Vec<f64>> {
        let (index, own_epoch) = self.place(epoch);
        let bases = self.bases(index, base_lrs);
        if own_epoch == 0 {
            return self.schedules[index].restart(&bases);
        }
        self.schedules[index].next(own_epoch, lrs, &bases)
    }

    fn momentum(&self, epoch: u64) -> Result<Option<f64>> {
        // A cycle sets the momentum when it is made, whenever its turn is; after it, the momentum stays.
        let (index, own_epoch) = self.place(epoch);
        if let Some(momentum) = self.schedules[index].momentum(own_epoch)? {
            return Ok(Some(momentum));
        }
        match self.schedules[..index].iter().rposition(|schedule| matches!(schedule.momentum(0), Ok(Some(_)))) {
            Some(before) => {
                let start = if before == 0 { 0 } else { self.milestones[before - 1] };
                self.schedules[before].momentum((self.milestones[before] - 1).saturating_sub(start))
            }
            None => {
                self.schedules[index..].iter().rev().find_map(|schedule| schedule.momentum(0).transpose()).transpose()
            }
        }
    }

    fn settings(&self) -> Value {
        let parts = self.schedules.iter().map(|part| json!({ "kind": part.name(), "settings": part.settings() }));
        json!({ "schedules": parts.collect::<Vec<_>>(), "milestones": self.milestones })
    }

    fn load_settings(&mut self, settings: &Value) -> Result<()> {
        let before = self.settings();
        let loaded = self.load(settings);
        if loaded.is_err() {
            self.load(&before)?;
        }
        loaded
    }
}
