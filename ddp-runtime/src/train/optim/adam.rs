//! `Adam` and `AdamW` on PyTorch's fused kernels.

use super::Scaling;
use super::fused::{Algorithm, Fused, Kernel, Lists};
use crate::{Error, Result, sys};

/// Settings of [`Adam`], with PyTorch's names and defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamOptions {
    /// Learning rate: 1e-3.
    pub lr: f64,
    /// Coefficients of the running averages of the gradient and its square: (0.9, 0.999).
    pub betas: (f64, f64),
    /// Added to the denominator: 1e-8.
    pub eps: f64,
    /// Weight decay as a part of the gradient (L2 penalty): 0.
    pub weight_decay: f64,
    /// Use the maximum of all past squares' averages: off.
    pub amsgrad: bool,
    /// Maximize instead of minimize: off.
    pub maximize: bool,
}

impl Default for AdamOptions {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, amsgrad: false, maximize: false }
    }
}

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

/// Adam: `torch.optim.Adam(fused=True)` (Kingma and Ba, 2015; amsgrad: Reddi et al., 2018).
///
/// State: `<parameter>.exp_avg`, `.exp_avg_sq` and, with `amsgrad`, `.max_exp_avg_sq`, of the parameter's shape and
/// dtype; `<parameter>.step`, one `Float`.
pub type Adam = Fused<AdamOptions>;

/// Adam with decoupled weight decay: `torch.optim.AdamW(fused=True)` (Loshchilov and Hutter, 2019).
///
/// State: as [`Adam`]'s.
pub type AdamW = Fused<AdamWOptions>;

const STATES: &[(&str, bool)] = &[("exp_avg", false), ("exp_avg_sq", false), ("max_exp_avg_sq", false), ("step", true)];

fn check(name: &str, lr: f64, (beta1, beta2): (f64, f64), eps: f64, weight_decay: f64) -> Result<()> {
    for (setting, value) in [("lr", lr), ("eps", eps), ("weight_decay", weight_decay)] {
        if value.is_nan() || value < 0.0 {
            return Err(Error::Invalid(format!("{name}: {setting} must be at least 0, not {value}")));
        }
    }
    for beta in [beta1, beta2] {
        if !(0.0..1.0).contains(&beta) {
            return Err(Error::Invalid(format!("{name}: betas must be from 0 to less than 1, not {beta}")));
        }
    }
    Ok(())
}

fn step(
    operation: &'static str,
    options: &sys::ddp_adam_options,
    lists: &mut Lists,
    scaling: Option<&Scaling<'_>>,
) -> Result<()> {
    let (parameters, n) = (lists.parameters.as_ptr(), lists.parameters.len());
    let [exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps] = [0, 1, 2, 3].map(|state| lists.states[state].as_mut_ptr());
    let scaling = scaling.map(Scaling::raw);
    let scaling = scaling.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `Lists` says so of its pointers; there are `n` in each list; the tensors of `scaling` outlive the call.
    crate::error::check(operation, |error| unsafe {
        sys::ddp_adam_step(parameters, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, n, options, scaling, error)
    })
}

/// The two differ in where the weight decay goes.
macro_rules! adam_kernel {
    ($options:ident, $name:literal, decoupled: $decoupled:literal) => {
        impl Algorithm for $options {}

        impl Kernel for $options {
            const STATES: &'static [(&'static str, bool)] = STATES;

            fn check(&self) -> Result<()> {
                check($name, self.lr, self.betas, self.eps, self.weight_decay)
            }

            fn lr(&mut self) -> &mut f64 {
                &mut self.lr
            }

            fn momentum(&mut self) -> &mut f64 {
                &mut self.betas.0
            }

            fn step(&self, lists: &mut Lists, scaling: Option<&Scaling<'_>>) -> Result<()> {
                let Self { lr, betas: (beta1, beta2), eps, weight_decay, amsgrad, maximize } = *self;
                let decoupled = $decoupled;
                let options =
                    sys::ddp_adam_options { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, decoupled };
                step(concat!($name, " step"), &options, lists, scaling)
            }
        }
    };
}

adam_kernel!(AdamOptions, "Adam", decoupled: false);
adam_kernel!(AdamWOptions, "AdamW", decoupled: true);
