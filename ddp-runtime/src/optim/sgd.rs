use super::Scaling;
use super::fused::{Algorithm, Fused, Kernel, Lists};
use crate::error::check;
use crate::{Error, Result, sys};

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
    /// Nesterov momentum, which needs momentum and no dampening: off.
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
pub type Sgd = Fused<SgdOptions>;

impl Algorithm for SgdOptions {}

impl Kernel for SgdOptions {
    const STATES: &'static [(&'static str, bool)] = &[("momentum_buffer", false)];

    fn check(&self) -> Result<()> {
        let Self { lr, momentum, dampening, weight_decay, nesterov, .. } = *self;
        for (name, value) in [("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)] {
            if value.is_nan() || value < 0.0 {
                return Err(Error::Invalid(format!("SGD: {name} must be at least 0, not {value}")));
            }
        }
        if nesterov && (momentum == 0.0 || dampening != 0.0) {
            return Err(Error::Invalid("SGD: Nesterov momentum needs a momentum and no dampening".into()));
        }
        Ok(())
    }

    fn lr(&mut self) -> &mut f64 {
        &mut self.lr
    }

    fn momentum(&mut self) -> &mut f64 {
        &mut self.momentum
    }

    fn step(&self, lists: &mut Lists, scaling: Option<&Scaling<'_>>) -> Result<()> {
        let Self { lr, momentum, dampening, weight_decay, nesterov, maximize } = *self;
        let options = sys::ddp_sgd_options { lr, momentum, dampening, weight_decay, nesterov, maximize };
        let (parameters, n) = (lists.parameters.as_ptr(), lists.parameters.len());
        let buffers = lists.states[0].as_mut_ptr();
        let scaling = scaling.map(Scaling::raw);
        let scaling = scaling.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `Lists` says so of its pointers; there are `n` in both; the tensors of `scaling` outlive the call.
        check("SGD step", |error| unsafe { sys::ddp_sgd_step(parameters, buffers, n, &options, scaling, error) })
    }
}
