use std::collections::HashMap;

use tch::Tensor;
use tch::nn::VarStore;

use super::state::{self, Slots};
use super::{Optimizer, Parameters};
use crate::error::check;
use crate::{Result, sys};

/// Settings of [`AdamW`], with PyTorch's names and defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Learning rate: 1e-3.
    pub lr: f64,
    /// Coefficients of the running averages of the gradient and its square: (0.9, 0.999).
    pub betas: (f64, f64),
    /// Added to the denominator: 1e-8.
    pub eps: f64,
    /// Decoupled weight decay: 1e-2.
    pub weight_decay: f64,
    /// Use the maximum of all past squares' averages: off.
    pub amsgrad: bool,
    /// Maximize instead of minimize: off.
    pub maximize: bool,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2, amsgrad: false, maximize: false }
    }
}

/// Adam with decoupled weight decay: `torch.optim.AdamW(fused=True)` (Loshchilov and Hutter, 2019).
///
/// State: `<parameter>.exp_avg`, `.exp_avg_sq` and, with `amsgrad`, `.max_exp_avg_sq`, of the parameter's shape and
/// dtype; `<parameter>.step`, one `Float`.
#[derive(Debug)]
pub struct AdamW {
    parameters: Parameters,
    options: AdamWOptions,
    exp_avgs: Slots,
    exp_avg_sqs: Slots,
    max_exp_avg_sqs: Slots,
    steps: Slots,
}

impl AdamW {
    /// An optimizer for the trainable variables of `vs`.
    pub fn new(vs: &VarStore, options: AdamWOptions) -> Self {
        let parameters = Parameters::of(vs);
        Self {
            exp_avgs: Slots::new("exp_avg", &parameters),
            exp_avg_sqs: Slots::new("exp_avg_sq", &parameters),
            max_exp_avg_sqs: Slots::new("max_exp_avg_sq", &parameters),
            steps: Slots::new("step", &parameters).scalar(),
            parameters,
            options,
        }
    }
}

impl Optimizer for AdamW {
    fn step(&mut self) -> Result<()> {
        let AdamWOptions { lr, betas: (beta1, beta2), eps, weight_decay, amsgrad, maximize } = self.options;
        let options = sys::ddp_adam_options { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, decoupled: true };
        let parameters = &self.parameters.pointers;
        let mut exp_avgs = self.exp_avgs.pointers();
        let mut exp_avg_sqs = self.exp_avg_sqs.pointers();
        let mut max_exp_avg_sqs = self.max_exp_avg_sqs.pointers();
        let mut steps = self.steps.pointers();
        // SAFETY: all arrays hold as many pointers as there are parameters, to tensors that `self` keeps alive, or null.
        let done = check("AdamW step", |error| unsafe {
            sys::ddp_adam_step(
                parameters.as_ptr(),
                exp_avgs.as_mut_ptr(),
                exp_avg_sqs.as_mut_ptr(),
                max_exp_avg_sqs.as_mut_ptr(),
                steps.as_mut_ptr(),
                parameters.len(),
                &options,
                error,
            )
        });
        self.exp_avgs.adopt(&exp_avgs);
        self.exp_avg_sqs.adopt(&exp_avg_sqs);
        self.max_exp_avg_sqs.adopt(&max_exp_avg_sqs);
        self.steps.adopt(&steps);
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
        let all = [&self.exp_avgs, &self.exp_avg_sqs, &self.max_exp_avg_sqs, &self.steps];
        state::save(&self.parameters, &all)
    }

    fn load_state_dict(&mut self, loaded: HashMap<String, Tensor>) -> Result<()> {
        let mut all = [&mut self.exp_avgs, &mut self.exp_avg_sqs, &mut self.max_exp_avg_sqs, &mut self.steps];
        state::load(&self.parameters, &mut all, loaded)
    }
}
