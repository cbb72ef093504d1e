//! The result of a step under a `GradScaler`: taken or skipped.

use tch::Tensor;

use crate::{Error, Result};

/// What became of a [`GradScaler::step`](super::GradScaler::step). It stays true after the scaler's update, so a loop can ask
/// later, or not at all.
#[derive(Debug)]
pub struct Stepped(Option<Tensor>);

impl Stepped {
    pub(crate) fn always() -> Self {
        Self(None)
    }

    pub(super) fn unless(found_inf: Tensor) -> Self {
        Self(Some(found_inf))
    }

    /// Whether the step was taken; else a gradient was not finite, and the scheduler should not take a step either. Waits for
    /// a GPU.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch).
    pub fn was_taken(&self) -> Result<bool> {
        self.0.as_ref().map_or(Ok(true), |found_inf| Ok(number(found_inf)? == 0.0))
    }

    /// 1 if the step was skipped, on the scaler's device; `None` if it can't have been.
    pub(crate) fn skipped(&self) -> Option<&Tensor> {
        self.0.as_ref()
    }
}

/// The value of a tensor with one element.
pub(super) fn number(tensor: &Tensor) -> Result<f64> {
    tensor.f_double_value(&[]).map_err(failed)
}

pub(super) fn failed(err: tch::TchError) -> Error {
    Error::tch("scaling gradients")(err)
}
