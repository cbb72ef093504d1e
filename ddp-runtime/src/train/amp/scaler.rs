//! `GradScaler`: PyTorch's `torch.amp.GradScaler`.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::stepped::{Stepped, failed, number};
use crate::dist::params;
use crate::error::check;
use crate::train::optim::{Optimizer, Scaling};
use crate::train::state_dict::StateDict;
use crate::train::stateful::Stateful;
use crate::{Error, Result, sys};

/// Settings of [`GradScaler`], with PyTorch's names and defaults.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradScalerOptions {
    /// The first scale: 65536.
    pub init_scale: f64,
    /// What the scale is multiplied by after enough good steps in a row, above 1: 2.
    pub growth_factor: f64,
    /// What it is multiplied by after a step that overflowed, below 1: 0.5.
    pub backoff_factor: f64,
    /// How many good steps in a row are enough: 2000.
    pub growth_interval: i64,
    /// Off: a scaler that does nothing, so that one loop serves all precisions: on.
    pub enabled: bool,
}

impl Default for GradScalerOptions {
    fn default() -> Self {
        Self { init_scale: 65536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000, enabled: true }
    }
}

/// Scales the loss so that `Half` gradients neither vanish nor overflow, and skips steps that did:
/// `torch.amp.GradScaler` (`torch/amp/grad_scaler.py`).
///
/// With [`Ddp`](crate::Ddp), which averages the scaled gradients, an overflow on one rank is one on all, so that all
/// ranks skip the same steps and keep the same scale. One scaler serves several optimizers: each skips its own steps, and
/// one [`update`](Self::update) comes after all of them.
///
/// ```
/// use ddp_runtime::amp::{Autocast, GradScaler, GradScalerOptions};
/// use ddp_runtime::optim::{self, Optimizer, Sgd, SgdOptions};
/// use tch::{Device, Kind, Tensor, nn, nn::Module};
///
/// # fn main() -> ddp_runtime::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let model = nn::linear(vs.root(), 2, 1, Default::default());
/// let mut optimizer = Sgd::new(&vs, SgdOptions::default());
/// let mut scaler = GradScaler::new(Device::Cpu, GradScalerOptions::default())?;
///
/// let x = Tensor::ones([8, 2], (Kind::Float, Device::Cpu));
/// optimizer.zero_grad()?;
/// let loss = Autocast::new(Device::Cpu, Kind::Half)?.run(|| model.forward(&x).to_kind(Kind::Float).mean(Kind::Float));
/// scaler.scale(&loss)?.backward();
/// scaler.unscale(&optimizer)?; // only to look at or clip the gradients before the step
/// optim::clip_grad_norm(&vs, 1.0, 2.0)?;
/// let stepped = scaler.step(&mut optimizer)?;
/// scaler.update()?;
/// // The first steps may be skipped, until the scale is down to what the gradients allow. To ask waits for a GPU.
/// assert_eq!(scaler.get_scale()?, if stepped.was_taken()? { 65536.0 } else { 32768.0 });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GradScaler {
    options: GradScalerOptions,
    /// `Float`, one number, as the kernels want it.
    scale: Tensor,
    /// `Int`, one number.
    growth_tracker: Tensor,
    /// Optimizers that were unscaled or stepped since the last update.
    optimizers: Vec<PerOptimizer>,
}

/// PyTorch's `_per_optimizer_states`.
#[derive(Debug)]
struct PerOptimizer {
    /// The [id](params::id) of its first parameter; an optimizer may be moved in memory.
    id: usize,
    phase: Phase,
    /// `Float`, one number: 1 when a gradient of this step was not finite.
    found_inf: Tensor,
}

/// What was done since the last update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its gradients were looked at, and are still scaled.
    Checked,
    Unscaled,
    Stepped,
}

/// The value's name in a snapshot.
const SCALER: &str = "scaler";

/// As in PyTorch's `state_dict`.
#[derive(Serialize, Deserialize)]
struct State {
    scale: f64,
    growth_factor: f64,
    backoff_factor: f64,
    growth_interval: i64,
    growth_tracker: i64,
}

impl GradScaler {
    /// A scaler for gradients on `device`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that PyTorch refuses.
    pub fn new(device: Device, options: GradScalerOptions) -> Result<Self> {
        options.check()?;
        let zero = |kind| Tensor::f_zeros([1i64; 0], (kind, device)).map_err(failed);
        let mut scaler =
            Self { options, scale: zero(Kind::Float)?, growth_tracker: zero(Kind::Int)?, optimizers: Vec::new() };
        fill(&mut scaler.scale, options.init_scale)?;
        Ok(scaler)
    }

    /// The loss times the scale, to run backward on.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn scale(&self, loss: &Tensor) -> Result<Tensor> {
        if !self.options.enabled {
            return Ok(loss.shallow_clone());
        }
        loss.f_mul(&self.scale).map_err(failed)
    }

    /// Divides the optimizer's gradients by the scale, so that they can be looked at and clipped: `unscale_`.
    /// [`step`](Self::step) does it if this was not called. It does not wait for a GPU.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it was done for this optimizer since the last [`update`](Self::update), or after its step;
    /// [`Error::Torch`], also for `Half` gradients.
    pub fn unscale(&mut self, optimizer: &(impl Optimizer + ?Sized)) -> Result<()> {
        if !self.options.enabled {
            return Ok(());
        }
        let parameters = optimizer.parameters();
        let id = id_of(&parameters);
        match self.state_of(id).map(|state| state.phase) {
            None | Some(Phase::Checked) => {}
            Some(Phase::Unscaled) => {
                return Err(misused("unscale was already called on this optimizer since the last update"));
            }
            Some(Phase::Stepped) => return Err(misused("unscale must be called before step")),
        }
        // In Double, as PyTorch does: a Float division may be less exact.
        let inverse = tch::no_grad(|| self.scale.f_to_kind(Kind::Double)?.f_reciprocal()?.f_to_kind(Kind::Float));
        let found_inf = unscale(&parameters, &inverse.map_err(failed)?, false)?;
        self.set(id, Phase::Unscaled, found_inf);
        Ok(())
    }

    /// Takes the optimizer's step, unless one of its gradients is not finite.
    ///
    /// [`Sgd`](crate::optim::Sgd), [`Adam`](crate::optim::Adam) and [`AdamW`](crate::optim::AdamW) decide it on the device, so
    /// that nothing waits for a GPU (but for `Sgd` with dampening, until its first step is taken); for other optimizers it
    /// is read, as PyTorch does. [`Stepped`] tells whether the step was taken.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it was called for this optimizer since the last [`update`](Self::update); the optimizer's.
    pub fn step(&mut self, optimizer: &mut (impl Optimizer + ?Sized)) -> Result<Stepped> {
        if !self.options.enabled {
            return optimizer.step().map(|()| Stepped::always());
        }
        let id = id_of(&optimizer.parameters());
        match self.state_of(id).map(|state| state.phase) {
            Some(Phase::Unscaled) => {}
            Some(Phase::Stepped) => {
                return Err(misused("step was already called on this optimizer since the last update"));
            }
            // _check_inf_per_device: the step's kernels divide by the scale.
            _ if optimizer.as_scaled().is_some() => {
                let one = Tensor::f_ones([1i64; 0], (Kind::Float, self.scale.device())).map_err(failed)?;
                let found_inf = unscale(&optimizer.parameters(), &one, true)?;
                self.set(id, Phase::Checked, found_inf);
            }
            _ => self.unscale(optimizer)?,
        }
        let Some(state) = self.optimizers.iter_mut().find(|state| state.id == id) else {
            return Err(misused("no inf checks were recorded for this optimizer"));
        };
        let found_inf = state.found_inf.shallow_clone();
        let grad_scale = (state.phase == Phase::Checked).then_some(&self.scale);
        match optimizer.as_scaled() {
            Some(optimizer) => optimizer.step_scaled(&Scaling { grad_scale, found_inf: &found_inf })?,
            None if number(&found_inf)? == 0.0 => optimizer.step()?,
            None => {}
        }
        state.phase = Phase::Stepped;
        Ok(Stepped::unless(found_inf))
    }

    /// Makes the scale smaller after a step that was skipped, of any optimizer, and larger after enough that were not. Call
    /// it once per step, at its end. It does not wait for a GPU.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no gradients were unscaled since the last one.
    pub fn update(&mut self) -> Result<()> {
        if !self.options.enabled {
            return Ok(());
        }
        let _guard = tch::no_grad_guard();
        let mut found = self.optimizers.iter().map(|state| &state.found_inf);
        let first = found.next().ok_or_else(|| misused("update must be called after step"))?.shallow_clone();
        let found_inf = found.try_fold(first, |sum, found_inf| sum.f_add(found_inf)).map_err(failed)?;
        let GradScalerOptions { growth_factor, backoff_factor, growth_interval, .. } = self.options;
        let tracker = &self.growth_tracker;
        let updated = self.scale.f_internal_amp_update_scale_(
            tracker,
            &found_inf,
            growth_factor,
            backoff_factor,
            growth_interval,
        );
        let _ = updated.map_err(failed)?; // another handle of the scale
        self.optimizers.clear();
        Ok(())
    }

    fn set(&mut self, id: usize, phase: Phase, found_inf: Tensor) {
        self.optimizers.retain(|state| state.id != id);
        self.optimizers.push(PerOptimizer { id, phase, found_inf });
    }

    fn state_of(&self, id: usize) -> Option<&PerOptimizer> {
        self.optimizers.iter().find(|state| state.id == id)
    }

    /// The scale in use; 1 when it is not enabled. Waits for a GPU.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn get_scale(&self) -> Result<f64> {
        if !self.options.enabled {
            return Ok(1.0);
        }
        number(&self.scale)
    }
}

/// The value `scaler`: the scale, the settings and how many good steps there were in a row. Reading it waits for a GPU.
impl Stateful for GradScaler {
    fn state_dict(&self) -> Result<StateDict> {
        let GradScalerOptions { growth_factor, backoff_factor, growth_interval, .. } = self.options;
        let growth_tracker = self.growth_tracker.f_int64_value(&[]).map_err(failed)?;
        let scale = number(&self.scale)?;
        StateDict::new().with(SCALER, &State { scale, growth_factor, backoff_factor, growth_interval, growth_tracker })
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let mismatch = |problem: String| Error::StateMismatch { what: "the gradient scaler's state".into(), problem };
        let json: serde_json::Value = state.require(SCALER)?;
        let state = State::deserialize(&json).map_err(|err| mismatch(err.to_string()))?;
        let options = GradScalerOptions {
            growth_factor: state.growth_factor,
            backoff_factor: state.backoff_factor,
            growth_interval: state.growth_interval,
            ..self.options
        };
        options.check().map_err(|err| mismatch(err.to_string()))?;
        // After many steps that overflowed, it has become 0.
        if !(fits(state.scale) && state.scale >= 0.0) || state.growth_tracker < 0 {
            return Err(mismatch(format!("invalid scale {} after {} steps", state.scale, state.growth_tracker)));
        }
        fill(&mut self.scale, state.scale)?;
        fill(&mut self.growth_tracker, state.growth_tracker as f64)?;
        self.options = options;
        self.optimizers.clear();
        Ok(())
    }
}

impl GradScalerOptions {
    fn check(&self) -> Result<()> {
        let Self { init_scale, growth_factor, backoff_factor, growth_interval, .. } = *self;
        let problem = if !(fits(init_scale) && init_scale > 0.0) {
            format!("init_scale must be above 0 and a 32-bit number, not {init_scale}")
        } else if !(growth_factor.is_finite() && growth_factor > 1.0) {
            format!("growth_factor must be above 1, not {growth_factor}")
        } else if !(0.0 < backoff_factor && backoff_factor < 1.0) {
            format!("backoff_factor must be from 0 to 1, not {backoff_factor}")
        } else if growth_interval < 1 {
            format!("growth_interval must be at least 1, not {growth_interval}")
        } else {
            return Ok(());
        };
        Err(misused(&problem))
    }
}

fn fill(tensor: &mut Tensor, value: f64) -> Result<()> {
    tch::no_grad(|| tensor.f_fill_(value)).map(drop).map_err(failed)
}

/// Whether the scale's tensor can hold the number.
fn fits(scale: f64) -> bool {
    (scale as f32).is_finite()
}

/// What tells optimizers apart.
fn id_of(parameters: &[(&str, &Tensor)]) -> usize {
    parameters.first().map_or(0, |(_, parameter)| params::id(parameter))
}

/// Multiplies the gradients by `inverse`; 1 if one of them is not finite, else 0: `_unscale_grads_`.
fn unscale(parameters: &[(&str, &Tensor)], inverse: &Tensor, allow_half: bool) -> Result<Tensor> {
    let mut found_inf = Tensor::f_zeros([1i64; 0], (Kind::Float, inverse.device())).map_err(failed)?;
    let pointers: Vec<_> = parameters.iter().map(|(_, parameter)| parameter.as_ptr().cast_mut()).collect();
    let found = found_inf.as_mut_ptr();
    // SAFETY: `pointers` are of `parameters`, which outlive the call, as do the other two.
    check("unscaling gradients", |error| unsafe {
        sys::ddp_unscale(pointers.as_ptr(), pointers.len(), found, inverse.as_ptr(), allow_half, error)
    })?;
    Ok(found_inf)
}

fn misused(problem: &str) -> Error {
    Error::Invalid(format!("GradScaler: {problem}"))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
