//! Steps with a gradient scaler.

use tch::Tensor;

use crate::{Result, sys};

/// What a [`GradScaler`](crate::amp::GradScaler) gives to an optimizer's step: the attributes `grad_scale` and `found_inf`
/// that PyTorch's sets (`torch/amp/grad_scaler.py`, `GradScaler.step`).
#[derive(Clone, Copy, Debug)]
pub struct Scaling<'a> {
    /// What the gradients are still to be divided by, in place: a `Float` scalar. `None` after
    /// [`GradScaler::unscale`](crate::amp::GradScaler::unscale).
    pub grad_scale: Option<&'a Tensor>,
    /// 1 when a gradient is not finite, else 0: a `Float` scalar. With 1 the step must change nothing but the gradients.
    pub found_inf: &'a Tensor,
}

/// An optimizer that skips a step by a number on the device, so that nothing waits for a GPU: PyTorch's
/// `_step_supports_amp_scaling`.
pub trait ScaledStep {
    /// [`Optimizer::step`](crate::optim::Optimizer::step) with the gradients divided by
    /// [`grad_scale`](Scaling::grad_scale); nothing if [`found_inf`](Scaling::found_inf) is 1.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch).
    fn step_scaled(&mut self, scaling: &Scaling<'_>) -> Result<()>;
}

impl Scaling<'_> {
    pub(super) fn raw(&self) -> sys::ddp_scaling {
        sys::ddp_scaling {
            grad_scale: self.grad_scale.map_or(std::ptr::null(), Tensor::as_ptr),
            found_inf: self.found_inf.as_ptr(),
        }
    }
}
