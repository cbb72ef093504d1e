//! `Sgd` on PyTorch's fused kernel.

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

/// Stochastic gradient descent: `torch.optim.SGD(fused=True)`. `Half` and `BFloat16` parameters on the CPU are updated as by
/// `fused=False`, as the fused kernel of libtorch 2.13 skips most of their elements.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::amp::{GradScaler, GradScalerOptions};
    use crate::train::optim::Optimizer;
    use tch::nn::VarStore;
    use tch::{Device, Kind, Tensor};

    /// What the bits of the parameters add up to after three steps; also with a scaler whose third step overflows.
    fn checksum(kind: Kind, options: SgdOptions, scaled: bool) -> i64 {
        let vs = VarStore::new(Device::Cpu);
        let numbers = Tensor::arange(70, (Kind::Float, Device::Cpu));
        let parameter = vs.root().add("p", ((&numbers - 35) / 32).to_kind(kind), true);
        let mut sgd = Sgd::new(&vs, options);
        let scaling = GradScalerOptions { init_scale: 4.0, enabled: scaled, ..Default::default() };
        let mut scaler = GradScaler::new(Device::Cpu, scaling).unwrap();
        for i in [Some(0), Some(1), None, Some(2)] {
            sgd.zero_grad().unwrap();
            let gradient = match i {
                Some(i) => ((&numbers * (i + 3)).fmod(7) - 3) / 4,
                None if scaled => numbers.full_like(f64::INFINITY),
                None => continue,
            };
            scaler.scale(&(&parameter * gradient.to_kind(kind)).sum(kind)).unwrap().backward();
            scaler.step(&mut sgd).unwrap();
            scaler.update().unwrap();
        }
        let bits = parameter.detach().view_dtype(Kind::Int16).to_kind(Kind::Int64);
        (bits * Tensor::arange_start(1, 71, (Kind::Int64, Device::Cpu))).sum(Kind::Int64).int64_value(&[])
    }

    /// From Python: torch.optim.SGD(fused=False), torch 2.13.0.
    #[test]
    fn half_and_bfloat16_parameters_on_the_cpu_match_python_to_the_last_bit() {
        let plain = SgdOptions { lr: 0.1, ..Default::default() };
        let nesterov = SgdOptions { momentum: 0.9, nesterov: true, weight_decay: 0.1, ..plain };
        let dampened = SgdOptions { momentum: 0.9, dampening: 0.3, maximize: true, ..plain };
        for (kind, sums) in
            [(Kind::BFloat16, [19_047_125, 17_206_554, 18_969_952]), (Kind::Half, [13_715_974, 11_840_733, 13_790_201])]
        {
            for scaled in [false, true] {
                let ours = [plain, nesterov, dampened].map(|options| checksum(kind, options, scaled));
                assert_eq!(ours, sums, "{kind:?}, with a scaler: {scaled}");
            }
        }
    }
}
