//! `torch/distributed/algorithms/ddp_comm_hooks/powerSGD_hook.py`, `powerSGD_hook`: the same operators in the same order.

mod mt19937;
mod orthogonalize;
mod round;
mod state;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::{GradBucket, HookWork, all_reduce, failed};
use crate::{Error, ProcessGroup, Result};
use round::Round;
pub use state::{Compression, PowerSgdOptions};
use state::{Memory, Shared, State};

/// PowerSGD: gradients travel as products of two small matrices (<https://arxiv.org/abs/1905.13727>).
///
/// Each gradient, as a matrix M of its first dimension by all others, is approximated by P Qᵀ: P = M Q is summed over the ranks
/// and made orthonormal, then Q = Mᵀ P is averaged over the ranks. Gradients that would not shrink enough, such as biases,
/// are averaged unchanged.
///
/// The sum of P and of uncompressed gradients overlaps with backward; the exchange of Q runs at the end of backward.
///
/// # Saving
/// A snapshot does not hold the state of a hook: the errors are each rank's own, and as large as the gradients. To continue a
/// run exactly, save [`state_dict`](Self::state_dict) on each rank next to the snapshot. Load it in a run with the same number of
/// ranks, after [`Run::resume`](crate::Run::resume), which restores the order of DDP's buckets. Otherwise, a
/// resumed run averages without compression for `start_iter` steps again, and starts with errors of zero.
///
/// ```
/// use ddp_runtime::comm_hook::{PowerSgd, PowerSgdOptions};
/// use ddp_runtime::{Context, Ddp};
/// use tch::nn;
///
/// # fn main() -> ddp_runtime::Result<()> {
/// let context = Context::init()?;
/// let vs = nn::VarStore::new(context.device());
/// let _model = nn::linear(vs.root(), 64, 64, Default::default());
/// let ddp = Ddp::new(context.group(), &vs)?;
/// let power_sgd = PowerSgd::new(PowerSgdOptions { matrix_approximation_rank: 2, ..Default::default() })?;
/// ddp.register_comm_hook(power_sgd.hook(context.group()))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PowerSgd(Arc<Shared>);

impl PowerSgd {
    /// A hook's state; [`hook`](Self::hook) makes the hook.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that PyTorch refuses, and for a rank below 1.
    pub fn new(options: PowerSgdOptions) -> Result<Self> {
        let PowerSgdOptions { matrix_approximation_rank, start_iter, use_error_feedback, warm_start, .. } = options;
        if matrix_approximation_rank < 1 {
            let problem = format!("matrix_approximation_rank must be at least 1, not {matrix_approximation_rank}");
            return Err(Error::Invalid(format!("PowerSgd: {problem}")));
        }
        if (use_error_feedback || warm_start) && start_iter <= 1 {
            let problem = "start_iter must be at least 2 with use_error_feedback or warm_start";
            return Err(Error::Invalid(format!("PowerSgd: {problem}, not {start_iter}")));
        }
        Ok(Self(Arc::new(Shared::new(options))))
    }

    /// The hook, for [`Ddp::register_comm_hook`](crate::Ddp::register_comm_hook). `group` is that of the `Ddp`. Use each
    /// `PowerSgd` for one `Ddp`.
    pub fn hook(&self, group: &ProcessGroup) -> impl FnMut(GradBucket) -> Result<HookWork> + Send + 'static + use<> {
        let (this, group) = (Arc::clone(&self.0), group.clone());
        move |bucket| {
            let is_early = this.state().iter < this.options.start_iter;
            if is_early {
                this.state().count(bucket.is_last());
                return all_reduce(&group, bucket);
            }
            let round = Round::start(&this, &group, bucket)?;
            let (this, group) = (Arc::clone(&this), group.clone());
            Ok(HookWork::new(move || round.finish(&this, &group)))
        }
    }

    /// How much was saved since compression started (`compression_stats`).
    pub fn compression(&self) -> Compression {
        self.0.state().compression
    }

    /// This rank's state, as tensors by name: handles, not copies. Call it between two steps.
    pub fn state_dict(&self) -> Vec<(String, Tensor)> {
        let state = self.0.state();
        let number = |number: u64| Tensor::from(i64::try_from(number).unwrap_or(i64::MAX));
        let mut named = vec![("iter".to_owned(), number(state.iter)), ("draws".to_owned(), number(state.draws))];
        for (index, Memory { layout, error, p, q }) in &state.buckets {
            named.extend(layout.iter().map(|&layout| (format!("{index}.layout"), Tensor::from(layout))));
            for (name, tensor) in [("error", error), ("p", p), ("q", q)] {
                named.extend(tensor.iter().map(|tensor| (format!("{index}.{name}"), tensor.shallow_clone())));
            }
        }
        named
    }

    /// Replaces the state by one that [`state_dict`](Self::state_dict) gave on this rank. `device` is that of the gradients.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] for names that are unknown or missing; then nothing has changed. If a bucket of the next step
    /// has other parameters than its state, that step fails.
    pub fn load_state_dict(&self, state: HashMap<String, Tensor>, device: Device) -> Result<()> {
        let mismatch = |problem: String| Error::StateMismatch { what: "the state of PowerSGD".into(), problem };
        let mut loaded = State::default();
        for name in ["iter", "draws"] {
            let number = state.get(name).and_then(|tensor| tensor.f_int64_value(&[]).ok());
            let number = number.and_then(|number| u64::try_from(number).ok());
            let number = number.ok_or_else(|| mismatch(format!("{name} is missing, or not a number of steps")))?;
            *(if name == "iter" { &mut loaded.iter } else { &mut loaded.draws }) = number;
        }
        for (name, tensor) in state.into_iter().filter(|(name, _)| name != "iter" && name != "draws") {
            let (index, part) = name.split_once('.').unwrap_or_default();
            let memory = index.parse().ok().map(|index: usize| loaded.buckets.entry(index).or_default());
            let slot = match (memory, part) {
                (Some(memory), "layout") => {
                    memory.layout = Some(tensor.f_int64_value(&[]).map_err(failed)?);
                    continue;
                }
                (Some(memory), "error") => &mut memory.error,
                (Some(memory), "p") => &mut memory.p,
                (Some(memory), "q") => &mut memory.q,
                _ => return Err(mismatch(format!("unknown tensor {name}"))),
            };
            *slot = Some(tensor.f_to_device_(device, tensor.kind(), false, true).map_err(failed)?);
        }
        loaded.compression = self.0.state().compression;
        *self.0.state() = loaded;
        Ok(())
    }
}

impl fmt::Debug for PowerSgd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PowerSgd").field("options", &self.0.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_sgd_settings_that_pytorch_refuses_are_refused() {
        let refused = |options| PowerSgd::new(options).unwrap_err().to_string();
        let zero = PowerSgdOptions { matrix_approximation_rank: 0, ..Default::default() };
        assert!(refused(zero).contains("matrix_approximation_rank must be at least 1, not 0"));
        let early = PowerSgdOptions { start_iter: 1, use_error_feedback: false, ..Default::default() };
        assert!(refused(early).contains("start_iter must be at least 2"));
        let cold =
            PowerSgdOptions { use_error_feedback: false, warm_start: false, start_iter: 0, ..Default::default() };
        assert!(PowerSgd::new(cold).is_ok());
    }

    #[test]
    fn power_sgd_state_of_something_else_is_refused_and_changes_nothing() {
        let power_sgd = PowerSgd::new(PowerSgdOptions::default()).unwrap();
        let numbers = || HashMap::from(["iter", "draws"].map(|name| (name.to_owned(), Tensor::from(7i64))));
        let load = |state| power_sgd.load_state_dict(state, Device::Cpu).map_err(|err| err.to_string());
        load(numbers()).unwrap();
        assert_eq!(
            load(HashMap::new()),
            Err("can't load the state of PowerSGD: iter is missing, or not a number of steps".into())
        );
        for name in ["x.error", "0.r", "0"] {
            let mut state = numbers();
            state.insert(name.to_owned(), Tensor::from(1f32));
            assert_eq!(load(state), Err(format!("can't load the state of PowerSGD: unknown tensor {name}")));
        }
        let iter = power_sgd.state_dict().into_iter().find(|(name, _)| name == "iter").unwrap().1;
        assert_eq!(iter.int64_value(&[]), 7);
    }
}
