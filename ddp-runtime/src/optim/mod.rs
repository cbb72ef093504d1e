//! Optimizers on PyTorch's fused kernels (`torch.optim`'s `fused=True`), whose state can be saved and loaded.
//!
//! tch's own optimizers can neither save nor load their state, and their `zero_grad` fails on gradients that are views
//! of a [`Ddp`](crate::Ddp)'s buckets.

mod adamw;
mod clip;
mod sgd;
mod state;

pub use adamw::{AdamW, AdamWOptions};
pub use clip::{Gradients, clip_grad_norm, clip_grad_value};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use tch::nn::{self, Module, VarStore};
    use tch::{Device, Kind};

    /// A model, three steps of which have been taken, and its losses in the next three.
    fn three_more(vs: &VarStore, model: &impl Module, optimizer: &mut impl Optimizer) -> Vec<f64> {
        let x = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([4, 3]) / 12;
        (0..3)
            .map(|_| {
                optimizer.zero_grad().unwrap();
                let loss = model.forward(&x).square().mean(Kind::Float);
                loss.backward();
                optimizer.step().unwrap();
                assert!(!vs.is_empty());
                loss.double_value(&[])
            })
            .collect()
    }

    /// Saves and loads the state of an optimizer of each kind in mid-training.
    fn survives<O: Optimizer>(make: impl Fn(&VarStore) -> O, states: &[&str]) {
        let vs = VarStore::new(Device::Cpu);
        let model = nn::linear(vs.root() / "l", 3, 2, Default::default());
        let mut optimizer = make(&vs);
        assert!(optimizer.state_dict().is_empty(), "there is no state before the first step");
        three_more(&vs, &model, &mut optimizer);

        let copies =
            |named: Vec<(String, Tensor)>| named.into_iter().map(|(n, t)| (n, t.copy())).collect::<HashMap<_, _>>();
        let state = copies(optimizer.state_dict());
        let mut names: Vec<_> = state.keys().cloned().collect();
        names.sort();
        let mut expected: Vec<_> = ["l.bias", "l.weight"]
            .iter()
            .flat_map(|parameter| states.iter().map(move |state| format!("{parameter}.{state}")))
            .collect();
        expected.sort();
        assert_eq!(names, expected);
        let weights = tch::no_grad(|| copies(vs.variables().into_iter().collect()));
        let undisturbed = three_more(&vs, &model, &mut optimizer);

        tch::no_grad(|| vs.variables().into_iter().for_each(|(name, mut t)| t.copy_(&weights[&name])));
        let mut fresh = make(&vs);
        fresh.load_state_dict(state).unwrap();
        assert_eq!(three_more(&vs, &model, &mut fresh), undisturbed);
    }

    #[test]
    fn an_optimizer_goes_on_from_its_saved_state() {
        let momentum = SgdOptions { lr: 0.1, momentum: 0.9, ..Default::default() };
        survives(|vs| Sgd::new(vs, momentum), &["momentum_buffer"]);
        survives(|vs| Sgd::new(vs, SgdOptions::default()), &[]);
        survives(|vs| AdamW::new(vs, AdamWOptions::default()), &["exp_avg", "exp_avg_sq", "step"]);
        let amsgrad = AdamWOptions { amsgrad: true, ..Default::default() };
        survives(|vs| AdamW::new(vs, amsgrad), &["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"]);
    }

    #[test]
    fn state_that_does_not_fit_is_refused_by_name() {
        let vs = VarStore::new(Device::Cpu);
        nn::linear(vs.root() / "l", 3, 2, Default::default());
        let mut optimizer = AdamW::new(&vs, AdamWOptions::default());
        let mut refused = |name: &str, shape: &[i64]| {
            let tensor = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
            match optimizer.load_state_dict(HashMap::from([(name.to_owned(), tensor)])) {
                Err(Error::StateMismatch { problem, .. }) => problem,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused("l.weight.exp_avg", &[3]), "l.weight.exp_avg has shape [3], and [2, 3] is needed");
        assert_eq!(
            refused("m.weight.exp_avg", &[2, 3]),
            "m.weight.exp_avg belongs to no parameter and state of this optimizer"
        );
    }
}
