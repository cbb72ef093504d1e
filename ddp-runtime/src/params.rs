//! Names and order of a model's tensors.

use std::collections::{HashMap, HashSet};

use tch::Tensor;
use tch::nn::VarStore;

use crate::sys;

/// The parameters that are trained, in the order in which the model made them, which is the same on all ranks.
///
/// A `VarStore` keeps that order without names, and the names without order: they are brought together by identity.
pub(crate) fn trained(vs: &VarStore) -> Vec<(String, Tensor)> {
    let mut names: HashMap<usize, String> = vs.variables().iter().map(|(name, t)| (id(t), name.clone())).collect();
    vs.trainable_variables()
        .into_iter()
        .filter(Tensor::requires_grad)
        .enumerate()
        .map(|(i, tensor)| (names.remove(&id(&tensor)).unwrap_or_else(|| format!("parameter {i}")), tensor))
        .collect()
}

/// Parameters that were frozen, by name.
pub(crate) fn frozen(vs: &VarStore) -> Vec<(String, Tensor)> {
    let parameters = parameter_ids(vs);
    all(vs).into_iter().filter(|(_, tensor)| !tensor.requires_grad() && parameters.contains(&id(tensor))).collect()
}

/// What was never meant to be trained (BatchNorm's statistics), by name: PyTorch's buffers.
pub(crate) fn buffers(vs: &VarStore) -> Vec<(String, Tensor)> {
    let parameters = parameter_ids(vs);
    all(vs).into_iter().filter(|(_, tensor)| !parameters.contains(&id(tensor))).collect()
}

fn parameter_ids(vs: &VarStore) -> HashSet<usize> {
    vs.trainable_variables().iter().map(id).collect()
}

/// Every tensor of the model, by name.
pub(crate) fn all(vs: &VarStore) -> Vec<(String, Tensor)> {
    let mut all: Vec<_> = vs.variables().into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Pointers to the tensors, for as long as these live.
pub(crate) fn pointers<'a>(tensors: impl IntoIterator<Item = &'a (String, Tensor)>) -> Vec<*mut sys::C_tensor> {
    tensors.into_iter().map(|(_, tensor)| tensor.as_ptr().cast_mut()).collect()
}

fn id(tensor: &Tensor) -> usize {
    // SAFETY: `tensor` is a live tensor, which the call only looks at.
    unsafe { sys::ddp_tensor_id(tensor.as_ptr()) }
}
