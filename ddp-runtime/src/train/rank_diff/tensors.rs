//! What is compared: everything that is equal on all ranks after a step, by the names that a snapshot has.

use std::collections::HashSet;

use ddp_contract::rank_diff::Category;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use tch::nn::VarStore;

use super::ranks::OPERATION;
use crate::dist::params;
use crate::train::optim::Optimizer;
use crate::{Error, Result, sys};

/// A rank's tensors.
#[derive(Debug, Default)]
pub(crate) struct Tensors {
    /// In the order of categories.
    pub(super) named: Vec<Named>,
    /// Tensors that have no bytes to compare.
    pub(super) skipped: usize,
    pub(super) is_sharded: bool,
}

/// A tensor, and what must be equal on all ranks before its elements can be.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) form: Form,
    pub(super) tensor: Tensor,
}

/// What and how a tensor is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Form {
    pub(super) category: Category,
    pub(super) name: String,
    /// Shape and dtype.
    pub(super) form: String,
}

impl Tensors {
    /// Adds a tensor. One that is not defined, such as a gradient that was cleared, does not exist.
    pub(super) fn add(&mut self, category: Category, name: String, tensor: Tensor) {
        // SAFETY: a live tensor, which the call only looks at.
        match unsafe { sys::ddp_tensor_form(tensor.as_ptr()) } {
            sys::DDP_UNDEFINED => return,
            sys::DDP_SPARSE | sys::DDP_QUANTIZED | sys::DDP_META => {
                self.skipped += 1;
                return;
            }
            _ => {}
        }
        // tch does not know every dtype.
        let Ok(kind) = tensor.f_kind() else {
            self.skipped += 1;
            return;
        };
        let form = format!("{:?} {kind:?}", tensor.size());
        self.named.push(Named { form: Form { category, name, form }, tensor });
    }
}

/// The tensors of a model and its optimizer.
pub(crate) fn collect(model: &VarStore, optimizer: &dyn Optimizer) -> Result<Tensors> {
    let mut tensors = Tensors { is_sharded: optimizer.is_sharded(), ..Tensors::default() };
    let buffers: HashSet<String> = params::buffers(model).into_iter().map(|(name, _)| name).collect();
    let (buffers, parameters): (Vec<_>, Vec<_>) =
        params::all(model).into_iter().partition(|(name, _)| buffers.contains(name));
    let mut gradients = Vec::new();
    for (name, parameter) in &parameters {
        gradients.push((name.clone(), parameter.f_grad().map_err(Error::tch(OPERATION))?));
    }
    let state = if tensors.is_sharded { vec![] } else { optimizer.state_dict()?.into_tensors() };
    for (category, named) in [
        (Category::Parameter, parameters),
        (Category::Buffer, buffers),
        (Category::Gradient, gradients),
        (Category::OptimizerState, state),
    ] {
        named.into_iter().for_each(|(name, tensor)| tensors.add(category, name, tensor));
    }
    Ok(tensors)
}
