use std::collections::HashMap;

use tch::Tensor;
use tch::nn::VarStore;

use super::state::{self, Slots};
use super::{Optimizer, Parameters};
use crate::error::check;
use crate::{Result, sys};

/// Settings of [`Sgd`], with PyTorch's names and defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdOptions {
    /// Learning rate: 1e-3.
    pub lr: f64,
    /// Momentum factor: 0.
    pub momentum: f64,
    /// Dampening of the momentum: 0.
    pub dampening: f64,
    /// Weight decay (L2 penalty): 0.
    pub weight_decay: f64,
    /// Nesterov momentum: off.
    pub nesterov: bool,
    /// Maximize instead of minimize: off.
    pub maximize: bool,
}

impl Default for SgdOptions {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false, maximize: false }
    }
}

/// Stochastic gradient descent: `torch.optim.SGD(fused=True)`.
///
/// State: `<parameter>.momentum_buffer`, of the parameter's shape and dtype, when there is momentum.
#[derive(Debug)]
pub struct Sgd {
    parameters: Parameters,
    options: SgdOptions,
    momentum_buffers: Slots,
}

impl Sgd {
    /// An optimizer for the trainable variables of `vs`.
    pub fn new(vs: &VarStore, options: SgdOptions) -> Self {
        let parameters = Parameters::of(vs);
        let momentum_buffers = Slots::new("momentum_buffer", &parameters);
        Self { parameters, options, momentum_buffers }
    }
}

impl Optimizer for Sgd {
    fn step(&mut self) -> Result<()> {
        let SgdOptions { lr, momentum, dampening, weight_decay, nesterov, maximize } = self.options;
        let options = sys::ddp_sgd_options { lr, momentum, dampening, weight_decay, nesterov, maximize };
        let parameters = &self.parameters.pointers;
        let mut buffers = self.momentum_buffers.pointers();
        // SAFETY: both arrays hold as many pointers as there are parameters, to tensors that `self` keeps alive, or null.
        let done = check("SGD step", |error| unsafe {
            sys::ddp_sgd_step(parameters.as_ptr(), buffers.as_mut_ptr(), parameters.len(), &options, error)
        });
        self.momentum_buffers.adopt(&buffers);
        done
    }

    fn zero_grad(&mut self) -> Result<()> {
        self.parameters.zero_grad()
    }

    fn learning_rate(&self) -> f64 {
        self.options.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.options.lr = lr;
    }

    fn state_dict(&self) -> Vec<(String, Tensor)> {
        state::save(&self.parameters, &[&self.momentum_buffers])
    }

    fn load_state_dict(&mut self, loaded: HashMap<String, Tensor>) -> Result<()> {
        state::load(&self.parameters, &mut [&mut self.momentum_buffers], loaded)
    }
}
