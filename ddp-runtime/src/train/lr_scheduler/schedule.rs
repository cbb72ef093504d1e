//! The trait `Schedule`: the rule of a learning rate scheduler.

use std::fmt::Debug;

use serde_json::Value;

use crate::Result;

/// The rule of a [`Scheduler`](super::Scheduler): which learning rates belong to an epoch. An epoch here is what lies
/// between two steps of the scheduler; the first is 0.
///
/// Rates are one number per parameter group. `base_lrs` are PyTorch's `initial_lr`.
pub trait Schedule: Debug + Send {
    /// PyTorch's name, which marks the state: `StepLR`.
    fn name(&self) -> &'static str;

    /// Refuses settings that make no schedule.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid).
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The base rates, given the optimizer's; most schedules take these as they are.
    fn base_lrs(&self, lrs: &[f64]) -> Vec<f64> {
        lrs.to_vec()
    }

    /// The rates of epoch 0, when the optimizer has the rates `lrs`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) where the schedule has no rate.
    fn first(&self, lrs: &[f64], base_lrs: &[f64]) -> Result<Vec<f64>>;

    /// The rates of an epoch after 0, from those of the epoch before: PyTorch's `get_lr`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) where the schedule has no rate.
    fn next(&self, epoch: u64, lrs: &[f64], base_lrs: &[f64]) -> Result<Vec<f64>>;

    /// The rates of epoch 0 when another schedule came before, from the base rates alone: PyTorch's
    /// `_get_closed_form_lr`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) where the schedule has no rate.
    fn restart(&self, base_lrs: &[f64]) -> Result<Vec<f64>> {
        self.first(base_lrs, base_lrs)
    }

    /// The momentum of an epoch, if the schedule sets one.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) where the schedule has none.
    fn momentum(&self, epoch: u64) -> Result<Option<f64>> {
        let _ = epoch;
        Ok(None)
    }

    /// The settings, which become part of the state.
    fn settings(&self) -> Value;

    /// Replaces the settings by those that [`Schedule::settings`] gave.
    ///
    /// # Errors
    /// [`Error::StateMismatch`](crate::Error::StateMismatch) for settings that do not fit; then they are as they were.
    fn load_settings(&mut self, settings: &Value) -> Result<()>;

    /// The schedule as a part of a [`SequentialLr`](super::SequentialLr).
    fn boxed(self) -> Box<dyn Schedule>
    where
        Self: Sized + 'static,
    {
        Box::new(self)
    }
}

/// A rate per group.
pub(super) fn each(lrs: &[f64], rate: impl Fn(f64) -> f64) -> Vec<f64> {
    lrs.iter().map(|&lr| rate(lr)).collect()
}
