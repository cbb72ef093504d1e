//! Optimizers on PyTorch's fused kernels (`torch.optim`'s `fused=True`), whose state can be saved and loaded.
//!
//! tch's own optimizers can neither save nor load their state, and their `zero_grad` fails on gradients that are views
//! of a [`Ddp`](crate::Ddp)'s buckets.

mod adam;
mod clip;
mod fused;
mod groups;
mod sgd;
mod state;
mod zero;

pub use adam::{Adam, AdamOptions, AdamW, AdamWOptions};
pub use clip::{Gradients, clip_grad_norm, clip_grad_value, grad_norm};
pub use fused::{Algorithm, Fused};
pub use groups::ParamGroup;
pub use sgd::{Sgd, SgdOptions};
pub use zero::ZeroRedundancy;

use tch::Tensor;

use crate::dist::params;
use crate::error::check;
pub use crate::train::scaled::{ScaledStep, Scaling};
use crate::train::state_dict::StateDict;
pub use crate::train::stateful::Optimizer;
use crate::{Result, sys};

impl<O: Optimizer + ?Sized> Optimizer for Box<O> {
    fn step(&mut self) -> Result<()> {
        (**self).step()
    }

    fn as_scaled(&mut self) -> Option<&mut dyn ScaledStep> {
        (**self).as_scaled()
    }

    fn zero_grad(&mut self) -> Result<()> {
        (**self).zero_grad()
    }

    fn zero_grad_with(&mut self, set_to_none: bool) -> Result<()> {
        (**self).zero_grad_with(set_to_none)
    }

    fn learning_rate(&self) -> f64 {
        (**self).learning_rate()
    }

    fn set_learning_rate(&mut self, lr: f64) {
        (**self).set_learning_rate(lr);
    }

    fn learning_rates(&self) -> Vec<f64> {
        (**self).learning_rates()
    }

    fn set_learning_rates(&mut self, lrs: &[f64]) -> Result<()> {
        (**self).set_learning_rates(lrs)
    }

    fn momenta(&self) -> Vec<f64> {
        (**self).momenta()
    }

    fn set_momenta(&mut self, momenta: &[f64]) -> Result<()> {
        (**self).set_momenta(momenta)
    }

    fn parameters(&self) -> Vec<(&str, &Tensor)> {
        (**self).parameters()
    }

    fn consolidated_state_dict(&self) -> Result<StateDict> {
        (**self).consolidated_state_dict()
    }

    fn is_sharded(&self) -> bool {
        (**self).is_sharded()
    }
}

/// The parameters an optimizer was made for.
#[derive(Debug)]
struct Parameters {
    named: Vec<(String, Tensor)>,
    pointers: Vec<*mut sys::C_tensor>,
}

// SAFETY: the pointers belong to the tensors next to them, and tch's tensors may move between threads.
unsafe impl Send for Parameters {}

impl Parameters {
    fn trained(vs: &tch::nn::VarStore) -> Self {
        Self::new(params::trained(vs))
    }

    fn new(named: Vec<(String, Tensor)>) -> Self {
        let pointers = params::pointers(&named);
        Self { named, pointers }
    }

    fn zero_grad(&self, set_to_none: bool) -> Result<()> {
        let (pointers, n) = (self.pointers.as_ptr(), self.pointers.len());
        // SAFETY: `n` pointers to tensors that `self` keeps alive.
        check("zero_grad", |error| unsafe { sys::ddp_zero_grad(pointers, n, set_to_none, error) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::Error;
    use crate::train::stateful::Stateful;
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
        assert!(optimizer.state_dict().unwrap().tensors().is_empty(), "there is no state before the first step");
        three_more(&vs, &model, &mut optimizer);

        let copies =
            |named: Vec<(String, Tensor)>| named.into_iter().map(|(n, t)| (n, t.copy())).collect::<HashMap<_, _>>();
        let state = copies(optimizer.state_dict().unwrap().into_tensors());
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
        fresh.load_state_dict(&state.into_iter().collect()).unwrap();
        assert_eq!(three_more(&vs, &model, &mut fresh), undisturbed);
    }

    #[test]
    fn optimizer_continues_from_its_saved_state() {
        let momentum = SgdOptions { lr: 0.1, momentum: 0.9, ..Default::default() };
        survives(|vs| Sgd::new(vs, momentum), &["momentum_buffer"]);
        survives(|vs| Sgd::new(vs, SgdOptions::default()), &[]);
        survives(|vs| AdamW::new(vs, AdamWOptions::default()), &["exp_avg", "exp_avg_sq", "step"]);
        survives(|vs| Adam::new(vs, AdamOptions::default()), &["exp_avg", "exp_avg_sq", "step"]);
        let amsgrad = AdamWOptions { amsgrad: true, ..Default::default() };
        survives(|vs| AdamW::new(vs, amsgrad), &["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"]);
    }

    #[test]
    fn optimizer_state_that_does_not_fit_is_refused_by_name() {
        let vs = VarStore::new(Device::Cpu);
        nn::linear(vs.root() / "l", 3, 2, Default::default());
        let mut optimizer = AdamW::new(&vs, AdamWOptions::default());
        let mut refused = |name: &str, shape: &[i64]| {
            let tensor = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
            match optimizer.load_state_dict(&[(name.to_owned(), tensor)].into_iter().collect()) {
                Err(Error::StateMismatch { problem, .. }) => problem,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused("l.weight.exp_avg", &[3]), "l.weight.exp_avg has shape [3], expected [2, 3]");
        assert_eq!(refused("m.weight.exp_avg", &[2, 3]), "m.weight.exp_avg is not a state of this optimizer");
    }

    #[test]
    fn groups_have_their_own_settings_and_share_one_state() {
        let vs = VarStore::new(Device::Cpu);
        let model = nn::linear(vs.root() / "l", 3, 2, Default::default());
        let groups = || {
            [
                ParamGroup::new(
                    |name, _| name.ends_with("weight"),
                    SgdOptions { lr: 0.5, momentum: 0.9, ..Default::default() },
                ),
                ParamGroup::rest(SgdOptions { lr: 0.0, momentum: 0.9, ..Default::default() }),
            ]
        };
        let mut optimizer = Sgd::with_groups(&vs, groups()).unwrap();
        assert_eq!(optimizer.learning_rates(), [0.5, 0.0]);
        let (weight, bias) = (model.ws.copy(), model.bs.as_ref().unwrap().copy());
        three_more(&vs, &model, &mut optimizer);
        assert_ne!(model.ws, weight);
        assert_eq!(model.bs.as_ref().unwrap(), &bias);

        let mut fresh = Sgd::with_groups(&vs, groups()).unwrap();
        fresh.load_state_dict(&optimizer.state_dict().unwrap()).unwrap();
        let names: Vec<_> = fresh.state_dict().unwrap().into_tensors().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["l.weight.momentum_buffer", "l.bias.momentum_buffer"]);
        assert!(optimizer.set_learning_rates(&[0.1]).is_err());
        optimizer.set_learning_rate(0.25);
        assert_eq!(optimizer.learning_rates(), [0.25, 0.25]);

        let only_weights = [ParamGroup::new(|name, _| name.ends_with("weight"), SgdOptions::default())];
        let err = Sgd::with_groups(&vs, only_weights).unwrap_err();
        assert!(err.to_string().starts_with("l.bias is in no parameter group"), "{err}");
    }

    #[test]
    fn optimizer_settings_that_pytorch_refuses_are_refused() {
        let vs = VarStore::new(Device::Cpu);
        nn::linear(vs.root(), 3, 2, Default::default());
        let refused = |options| Sgd::new(&vs, options).step().unwrap_err().to_string();
        assert!(refused(SgdOptions { nesterov: true, ..Default::default() }).contains("Nesterov"));
        assert!(refused(SgdOptions { lr: -1.0, ..Default::default() }).contains("lr must be at least 0, not -1"));
        let betas = AdamOptions { betas: (0.9, 1.0), ..Default::default() };
        assert!(Adam::new(&vs, betas).step().unwrap_err().to_string().contains("betas"));
    }

    /// The kernels walk over memory: with other strides they would pair the wrong elements, without an error on the CPU.
    #[test]
    fn gradient_with_other_strides_than_its_parameter_is_refused() {
        let vs = VarStore::new(Device::Cpu);
        // Not dense, so that its gradient can't have its strides.
        let weight = vs.root().add("w", Tensor::ones([4, 6], (Kind::Float, Device::Cpu)).slice(1, 0, 6, 2), true);
        weight.sum(Kind::Float).backward();
        let err = Sgd::new(&vs, SgdOptions::default()).step().unwrap_err().to_string();
        assert!(err.contains("strides [6, 2], but its gradient has strides [3, 1]"), "{err}");
    }

    #[test]
    fn gradients_of_several_dtypes_are_updated_and_cleared() {
        let vs = VarStore::new(Device::Cpu);
        let wide = vs.root().add("wide", Tensor::ones([3], (Kind::Double, Device::Cpu)), true);
        let narrow = vs.root().ones("narrow", &[2]);
        let other = vs.root().add("other", Tensor::ones([1], (Kind::Double, Device::Cpu)), true);
        let mut sgd = Sgd::new(&vs, SgdOptions { lr: 0.5, momentum: 0.9, ..Default::default() });
        let loss = wide.sum(Kind::Double) + narrow.sum(Kind::Double) + other.sum(Kind::Double);
        loss.backward();
        sgd.step().unwrap();
        for parameter in [&wide, &narrow, &other] {
            assert_eq!(parameter.double_value(&[0]), 0.5);
        }
        sgd.zero_grad_with(false).unwrap();
        for parameter in [&wide, &narrow, &other] {
            assert_eq!(parameter.grad(), parameter.zeros_like());
        }
    }

    #[test]
    fn gradients_are_cleared_to_none_or_zero() {
        let vs = VarStore::new(Device::Cpu);
        let model = nn::linear(vs.root(), 3, 2, Default::default());
        let mut optimizer = Sgd::new(&vs, SgdOptions::default());
        model.ws.sum(Kind::Float).backward();
        optimizer.zero_grad_with(false).unwrap();
        assert_eq!(model.ws.grad(), model.ws.zeros_like());
        optimizer.zero_grad().unwrap();
        assert!(!model.ws.grad().defined());
    }
}
