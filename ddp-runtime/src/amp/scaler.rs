use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::check;
use crate::optim::Optimizer;
use crate::{Error, Result, params, sys};

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

/// Scales the loss so that `Half` gradients neither vanish nor overflow, and leaves out steps that did:
/// `torch.amp.GradScaler` (`torch/amp/grad_scaler.py`).
///
/// With [`Ddp`](crate::Ddp), which averages the scaled gradients, an overflow on one rank is one on all, so that all
/// ranks leave out the same steps and keep the same scale.
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
/// let stepped = scaler.step(&mut optimizer)?; // false: left out; then don't step the scheduler either
/// scaler.update()?;
/// // The first steps may be left out, until the scale has come down to what the gradients allow.
/// assert_eq!(scaler.get_scale()?, if stepped { 65536.0 } else { 32768.0 });
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
    /// `Float`, one number: not 0 when a gradient of this step was not finite.
    found_inf: Tensor,
    phase: Phase,
}

/// What was done since the last update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ready,
    Unscaled,
    Stepped,
}

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
        let number = |kind| Tensor::f_zeros([1i64; 0], (kind, device)).map_err(failed);
        let mut scaler = Self {
            options,
            scale: number(Kind::Float)?,
            growth_tracker: number(Kind::Int)?,
            found_inf: number(Kind::Float)?,
            phase: Phase::Ready,
        };
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

    /// Divides the optimizer's gradients by the scale, so that they can be looked at and clipped.
    /// [`step`](Self::step) does it if this was not called.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it was done already in this step, or after it; [`Error::Torch`].
    pub fn unscale(&mut self, optimizer: &(impl Optimizer + ?Sized)) -> Result<()> {
        if !self.options.enabled {
            return Ok(());
        }
        match self.phase {
            Phase::Ready => {}
            Phase::Unscaled => return Err(misused("unscale was called already since the last update")),
            Phase::Stepped => return Err(misused("unscale must come before step")),
        }
        let parameters = optimizer.parameters();
        let pointers = params::pointers(&parameters);
        let inverse = tch::no_grad(|| self.scale.f_to_kind(Kind::Double)?.f_reciprocal()?.f_to_kind(Kind::Float));
        let inverse = inverse.map_err(failed)?;
        let found_inf = self.found_inf.as_mut_ptr();
        // SAFETY: `pointers` are of `parameters`, which outlive the call, as do the other two.
        check("unscaling gradients", |error| unsafe {
            sys::ddp_unscale(pointers.as_ptr(), pointers.len(), found_inf, inverse.as_ptr(), error)
        })?;
        self.phase = Phase::Unscaled;
        Ok(())
    }

    /// Takes the optimizer's step, unless a gradient is not finite. Gives whether it was taken. Waits for a GPU.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it was called already since the last [`update`](Self::update); the optimizer's.
    pub fn step(&mut self, optimizer: &mut (impl Optimizer + ?Sized)) -> Result<bool> {
        if !self.options.enabled {
            return optimizer.step().map(|()| true);
        }
        match self.phase {
            Phase::Ready => self.unscale(optimizer)?,
            Phase::Unscaled => {}
            Phase::Stepped => return Err(misused("step was called already since the last update")),
        }
        self.phase = Phase::Stepped;
        let finite = self.found_inf.f_double_value(&[]).map_err(failed)? == 0.0;
        if finite {
            optimizer.step()?;
        }
        Ok(finite)
    }

    /// Makes the scale smaller after a step that was left out, and larger after enough that were not. Call it once per
    /// step, at its end.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no gradients were unscaled since the last one.
    pub fn update(&mut self) -> Result<()> {
        if !self.options.enabled {
            return Ok(());
        }
        if self.phase == Phase::Ready {
            return Err(misused("update must come after step"));
        }
        let GradScalerOptions { growth_factor, backoff_factor, growth_interval, .. } = self.options;
        let _guard = tch::no_grad_guard();
        let (tracker, found_inf) = (&self.growth_tracker, &self.found_inf);
        let updated =
            self.scale.f_internal_amp_update_scale_(tracker, found_inf, growth_factor, backoff_factor, growth_interval);
        let _ = updated.map_err(failed)?; // another handle of the scale
        fill(&mut self.found_inf, 0.0)?;
        self.phase = Phase::Ready;
        Ok(())
    }

    /// The scale in use; 1 when it is not enabled. Waits for a GPU.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn get_scale(&self) -> Result<f64> {
        if !self.options.enabled {
            return Ok(1.0);
        }
        self.scale.f_double_value(&[]).map_err(failed)
    }

    /// The scale, the settings and how many good steps there were in a row: PyTorch's `state_dict`.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn state(&self) -> Result<serde_json::Value> {
        let GradScalerOptions { growth_factor, backoff_factor, growth_interval, .. } = self.options;
        let growth_tracker = self.growth_tracker.f_int64_value(&[]).map_err(failed)?;
        let scale = self.scale.f_double_value(&[]).map_err(failed)?;
        let state = State { scale, growth_factor, backoff_factor, growth_interval, growth_tracker };
        serde_json::to_value(state).map_err(Error::other)
    }

    /// Replaces scale, settings and count by those that [`state`](Self::state) gave.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] for anything else; then nothing has changed.
    pub fn load_state(&mut self, state: &serde_json::Value) -> Result<()> {
        let mismatch = |problem: String| Error::StateMismatch { what: "the gradient scaler's state".into(), problem };
        let state = State::deserialize(state).map_err(|err| mismatch(err.to_string()))?;
        let options = GradScalerOptions {
            growth_factor: state.growth_factor,
            backoff_factor: state.backoff_factor,
            growth_interval: state.growth_interval,
            ..self.options
        };
        options.check().map_err(|err| mismatch(err.to_string()))?;
        // After many steps that overflowed, it has become 0.
        if !(fits(state.scale) && state.scale >= 0.0) || state.growth_tracker < 0 {
            return Err(mismatch(format!("a scale of {} after {} steps", state.scale, state.growth_tracker)));
        }
        fill(&mut self.scale, state.scale)?;
        fill(&mut self.growth_tracker, state.growth_tracker as f64)?;
        fill(&mut self.found_inf, 0.0)?;
        self.options = options;
        self.phase = Phase::Ready;
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

fn misused(problem: &str) -> Error {
    Error::Invalid(format!("GradScaler: {problem}"))
}

fn failed(err: tch::TchError) -> Error {
    Error::tch("scaling gradients")(err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::{Sgd, SgdOptions};
    use tch::nn::VarStore;

    struct Job {
        vs: VarStore,
        optimizer: Sgd,
        scaler: GradScaler,
    }

    fn job(options: GradScalerOptions) -> Job {
        let vs = VarStore::new(Device::Cpu);
        let _ = vs.root().ones("w", &[1]);
        let optimizer = Sgd::new(&vs, SgdOptions { lr: 1.0, ..Default::default() });
        Job { vs, optimizer, scaler: GradScaler::new(Device::Cpu, options).unwrap() }
    }

    impl Job {
        /// A step whose gradient is `gradient`: whether it was taken.
        fn step(&mut self, gradient: f64) -> bool {
            self.optimizer.zero_grad().unwrap();
            let loss = (&self.vs.variables()["w"] * gradient).sum(Kind::Float);
            self.scaler.scale(&loss).unwrap().backward();
            let stepped = self.scaler.step(&mut self.optimizer).unwrap();
            self.scaler.update().unwrap();
            stepped
        }

        fn weight(&self) -> f64 {
            self.vs.variables()["w"].double_value(&[0])
        }
    }

    #[test]
    fn overflows_are_left_out_and_the_scale_follows() {
        let mut job = job(GradScalerOptions { init_scale: 8.0, growth_interval: 2, ..Default::default() });
        assert!(job.step(0.25));
        assert_eq!((job.weight(), job.scaler.get_scale().unwrap()), (0.75, 8.0));
        assert!(job.step(0.25));
        assert_eq!((job.weight(), job.scaler.get_scale().unwrap()), (0.5, 16.0));
        assert!(!job.step(f64::INFINITY));
        assert!(!job.step(f64::NAN));
        assert_eq!((job.weight(), job.scaler.get_scale().unwrap()), (0.5, 4.0));
        assert!(job.step(0.5));

        let state = job.scaler.state().unwrap();
        let mut fresh = GradScaler::new(Device::Cpu, GradScalerOptions::default()).unwrap();
        fresh.load_state(&serde_json::from_str(&state.to_string()).unwrap()).unwrap();
        assert_eq!(fresh.state().unwrap(), state);
        job.scaler = fresh;
        job.step(0.0);
        assert_eq!(job.scaler.get_scale().unwrap(), 8.0, "the count of good steps is part of the state");
    }

    #[test]
    fn gradients_can_be_looked_at_before_the_step() {
        let mut job = job(GradScalerOptions::default());
        let loss = (&job.vs.variables()["w"] * 3.0).sum(Kind::Float);
        job.scaler.scale(&loss).unwrap().backward();
        job.scaler.unscale(&job.optimizer).unwrap();
        assert_eq!(job.vs.variables()["w"].grad().double_value(&[0]), 3.0);
        let twice = job.scaler.unscale(&job.optimizer).unwrap_err().to_string();
        assert!(twice.contains("already"), "{twice}");
        assert!(job.scaler.step(&mut job.optimizer).unwrap());
        assert!(job.scaler.step(&mut job.optimizer).is_err());
        assert_eq!(job.weight(), -2.0);
    }

    #[test]
    fn one_that_is_not_enabled_does_nothing() {
        let mut job = job(GradScalerOptions { enabled: false, ..Default::default() });
        assert!(job.step(0.5));
        assert_eq!((job.weight(), job.scaler.get_scale().unwrap()), (0.5, 1.0));
    }

    #[test]
    fn settings_and_states_that_make_no_sense_are_refused() {
        let refused = |options| GradScaler::new(Device::Cpu, options).is_err();
        assert!(refused(GradScalerOptions { growth_factor: 1.0, ..Default::default() }));
        assert!(refused(GradScalerOptions { backoff_factor: 1.0, ..Default::default() }));
        let mut scaler = GradScaler::new(Device::Cpu, GradScalerOptions::default()).unwrap();
        let mut state = scaler.state().unwrap();
        state["scale"] = serde_json::json!(-1.0);
        assert!(matches!(scaler.load_state(&state), Err(Error::StateMismatch { .. })));
        assert_eq!(scaler.get_scale().unwrap(), 65536.0);
    }
}
