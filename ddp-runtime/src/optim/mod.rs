//! Optimizers on PyTorch's fused kernels (`torch.optim`'s `fused=True`), whose state can be saved and loaded.
//!
//! tch's own optimizers can neither save nor load their state, and their `zero_grad` fails on gradients that are views
//! of a [`Ddp`](crate::Ddp)'s buckets.

mod adamw;
mod sgd;
mod state;

pub use adamw::{AdamW, AdamWOptions};
pub use sgd::{Sgd, SgdOptions};

use std::collections::HashMap;

use tch::Tensor;

use crate::error::check;
use crate::{Result, params, sys};

/// What a training loop and a snapshot need of an optimizer.
pub trait Optimizer {
    /// Updates the parameters from their gradients. Parameters without a gradient are left alone.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch).
    fn step(&mut self) -> Result<()>;

    /// Clears the gradients (to none, as PyTorch's default is).
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch).
    fn zero_grad(&mut self) -> Result<()>;

    /// The learning rate in use.
    fn learning_rate(&self) -> f64;

    /// Changes the learning rate from the next step on.
    fn set_learning_rate(&mut self, lr: f64);

    /// The state, as tensors named `<parameter>.<state>` with PyTorch's names of states (`momentum_buffer`, `exp_avg`,
    /// `exp_avg_sq`, `max_exp_avg_sq`, `step`). They are handles of the optimizer's own tensors, not copies.
    fn state_dict(&self) -> Vec<(String, Tensor)>;

    /// Replaces the state by one that [`Optimizer::state_dict`] gave; values are copied to the parameters' device.
    ///
    /// # Errors
    /// [`Error::StateMismatch`](crate::Error::StateMismatch) for a name that is unknown or a shape that does not fit;
    /// then the state is as it was.
    fn load_state_dict(&mut self, state: HashMap<String, Tensor>) -> Result<()>;
}

/// The parameters an optimizer was made for.
#[derive(Debug)]
struct Parameters {
    named: Vec<(String, Tensor)>,
    pointers: Vec<*mut sys::C_tensor>,
}

// SAFETY: the pointers belong to the tensors beside them, and tch's tensors may move between threads.
unsafe impl Send for Parameters {}

impl Parameters {
    fn of(vs: &tch::nn::VarStore) -> Self {
        let named = params::trained(vs);
        let pointers = params::pointers(&named);
        Self { named, pointers }
    }

    fn zero_grad(&self) -> Result<()> {
        let (pointers, n) = (self.pointers.as_ptr(), self.pointers.len());
        // SAFETY: `n` pointers to tensors that `self` keeps alive.
        check("zero_grad", |error| unsafe { sys::ddp_zero_grad(pointers, n, true, error) })
    }
}
