//! `Fused`: what all optimizers on fused kernels share.

use std::fmt::Debug;

use tch::Tensor;
use tch::nn::VarStore;

use super::state::{self, Slots};
use super::{Optimizer, ParamGroup, Parameters, ScaledStep, Scaling, groups};
use crate::train::state_dict::StateDict;
use crate::train::stateful::Stateful;
use crate::{Result, sys};

/// An optimizer on one of PyTorch's fused kernels; [`Sgd`](super::Sgd), [`Adam`](super::Adam) and
/// [`AdamW`](super::AdamW) are names for it with their settings.
///
/// ```
/// use ddp_runtime::optim::{AdamW, AdamWOptions, Optimizer, ParamGroup};
/// use tch::{Device, nn};
///
/// # fn main() -> ddp_runtime::Result<()> {
/// let vs = nn::VarStore::new(Device::Cpu);
/// let _model = nn::linear(vs.root(), 2, 1, Default::default());
/// let mut optimizer = AdamW::with_groups(&vs, [
///     ParamGroup::new(|_name, parameter| parameter.dim() >= 2, AdamWOptions { weight_decay: 0.1, ..Default::default() }),
///     ParamGroup::rest(AdamWOptions { weight_decay: 0.0, lr: 1e-4, ..Default::default() }),
/// ])?;
/// assert_eq!(optimizer.learning_rates(), [1e-3, 1e-4]);
/// optimizer.set_learning_rates(&[2e-3, 2e-4])?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Fused<A> {
    groups: Vec<Group<A>>,
}

/// Settings that belong to a fused kernel: those of [`Sgd`](super::Sgd), [`Adam`](super::Adam) and
/// [`AdamW`](super::AdamW).
pub trait Algorithm: Kernel {}

/// What [`Fused`] needs of its settings.
pub trait Kernel: Clone + Debug {
    /// The states' names, and whether they are one number per parameter instead of a tensor of its shape.
    const STATES: &'static [(&'static str, bool)];

    /// PyTorch's checks of its settings.
    fn check(&self) -> Result<()>;

    fn lr(&mut self) -> &mut f64;

    /// What `OneCycleLR` cycles against the learning rate: the momentum, or Adam's first beta.
    fn momentum(&mut self) -> &mut f64;

    /// Updates the parameters, and makes the states that are missing.
    fn step(&self, lists: &mut Lists, scaling: Option<&Scaling<'_>>) -> Result<()>;
}

/// What a kernel works on. Every pointer is of a tensor that outlives it; those of states may be null, as many as there
/// are parameters.
pub struct Lists {
    pub(super) parameters: Vec<*mut sys::C_tensor>,
    pub(super) states: Vec<Vec<*mut sys::C_tensor>>,
}

#[derive(Debug)]
struct Group<A> {
    parameters: Parameters,
    options: A,
    states: Vec<Slots>,
}

impl<A: Algorithm> Group<A> {
    fn new(parameters: Parameters, options: A) -> Self {
        let states = A::STATES.iter().map(|&(name, scalar)| Slots::new(name, scalar, &parameters)).collect();
        Self { parameters, options, states }
    }

    fn step(&mut self, scaling: Option<&Scaling<'_>>) -> Result<()> {
        self.options.check()?;
        let states = self.states.iter().map(Slots::pointers).collect();
        let mut lists = Lists { parameters: self.parameters.pointers.clone(), states };
        let done = self.options.step(&mut lists, scaling);
        // Also after an error: what was made is kept, or freed with the optimizer.
        self.states.iter_mut().zip(&lists.states).for_each(|(slots, made)| slots.adopt(made));
        done
    }
}

impl<A: Algorithm> Fused<A> {
    /// An optimizer for the trainable variables of `vs`, all with the same settings.
    pub fn new(vs: &VarStore, options: A) -> Self {
        Self { groups: vec![Group::new(Parameters::trained(vs), options)] }
    }

    /// An optimizer whose parameters have settings by group (PyTorch's `param_groups`). Each trainable variable of `vs`
    /// goes to the first group that takes it.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a parameter that no group takes, naming it, and for settings that
    /// PyTorch refuses.
    pub fn with_groups(vs: &VarStore, groups: impl IntoIterator<Item = ParamGroup<A>>) -> Result<Self> {
        Self::from_groups(groups::split(vs, groups.into_iter().collect())?)
    }

    /// An optimizer for these groups.
    pub(super) fn from_groups(groups: Vec<(Parameters, A)>) -> Result<Self> {
        let groups: Vec<_> = groups.into_iter().map(|(parameters, options)| Group::new(parameters, options)).collect();
        groups.iter().try_for_each(|group| group.options.check())?;
        Ok(Self { groups })
    }

    /// The settings of each group.
    pub fn options(&self) -> impl Iterator<Item = &A> {
        self.groups.iter().map(|group| &group.options)
    }

    fn set(&mut self, what: &str, values: &[f64], setting: impl Fn(&mut A) -> &mut f64) -> Result<()> {
        groups::check_number(what, values, self.groups.len())?;
        self.groups.iter_mut().zip(values).for_each(|(group, &value)| *setting(&mut group.options) = value);
        Ok(())
    }

    fn get(&self, setting: impl Fn(&mut A) -> &mut f64) -> Vec<f64> {
        self.groups.iter().map(|group| *setting(&mut group.options.clone())).collect()
    }
}

impl<A: Algorithm> Optimizer for Fused<A> {
    fn step(&mut self) -> Result<()> {
        self.groups.iter_mut().try_for_each(|group| group.step(None))
    }

    fn as_scaled(&mut self) -> Option<&mut dyn ScaledStep> {
        Some(self)
    }

    fn zero_grad_with(&mut self, set_to_none: bool) -> Result<()> {
        self.groups.iter().try_for_each(|group| group.parameters.zero_grad(set_to_none))
    }

    fn learning_rates(&self) -> Vec<f64> {
        self.get(A::lr)
    }

    fn set_learning_rates(&mut self, lrs: &[f64]) -> Result<()> {
        self.set("learning rates", lrs, A::lr)
    }

    fn momenta(&self) -> Vec<f64> {
        self.get(A::momentum)
    }

    fn set_momenta(&mut self, momenta: &[f64]) -> Result<()> {
        self.set("momenta", momenta, A::momentum)
    }

    fn parameters(&self) -> Vec<(&str, &Tensor)> {
        let all = self.groups.iter().flat_map(|group| &group.parameters.named);
        all.map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }
}

/// Values are copied to the parameters' device. A tensor that belongs to no parameter is refused.
impl<A: Algorithm> Stateful for Fused<A> {
    fn state_dict(&self) -> Result<StateDict> {
        Ok(self.groups.iter().flat_map(|group| state::save(&group.parameters, &group.states)).collect())
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let parts = self.groups.iter_mut().map(|group| (&group.parameters, &mut group.states[..]));
        state::load(parts.collect(), state.tensors().iter().map(|(name, tensor)| (name.as_str(), tensor)).collect())
    }
}

impl<A: Algorithm> ScaledStep for Fused<A> {
    fn step_scaled(&mut self, scaling: &Scaling<'_>) -> Result<()> {
        self.groups.iter_mut().try_for_each(|group| group.step(Some(scaling)))
    }
}
