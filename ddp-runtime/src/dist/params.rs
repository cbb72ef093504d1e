//! Names and order of a model's tensors.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::PoisonError;

use tch::Tensor;
use tch::nn::VarStore;

use crate::sys;

/// The parameters that are trained, in the order in which the model made them, which is the same on all ranks.
///
/// A `VarStore` keeps that order without names, and the names without order: they are brought together by identity.
pub(crate) fn trained(vs: &VarStore) -> Vec<(String, Tensor)> {
    let names: HashMap<usize, String> = all(vs).into_iter().map(|(name, tensor)| (id(&tensor), name)).collect();
    let named = |(i, tensor): (usize, Tensor)| {
        (names.get(&id(&tensor)).cloned().unwrap_or_else(|| format!("parameter {i}")), tensor)
    };
    trained_tensors(vs).into_iter().enumerate().map(named).collect()
}

/// The parameters that are trained, without their names.
pub(crate) fn trained_tensors(vs: &VarStore) -> Vec<Tensor> {
    with_trained(vs, |trained| trained.iter().map(|tensor| tensor.shallow_clone()).collect())
}

/// Gives `f` the parameters that are trained: no handles are made, for what is done in each step. `f` must not use the
/// store.
pub(crate) fn with_trained<T>(vs: &VarStore, f: impl FnOnce(&[&Tensor]) -> T) -> T {
    let variables = vs.variables_.lock().unwrap_or_else(PoisonError::into_inner);
    let all = variables.trainable_variables.iter().map(|variable| &variable.tensor);
    let mut trained: Vec<&Tensor> = all.filter(|tensor| tensor.requires_grad()).collect();
    let mut ids: Vec<usize> = trained.iter().map(|tensor| id(tensor)).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        let mut seen = HashSet::new();
        trained.retain(|tensor| seen.insert(id(tensor)));
    }
    f(&trained)
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

/// Every tensor of the model, once, by name. One that has several names (tied weights) has the first of them, as in a file
/// that safetensors' `save_model` writes.
pub(crate) fn all(vs: &VarStore) -> Vec<(String, Tensor)> {
    with_aliases(vs).0
}

/// The further names of the model's tensors, each with the name that [`all`] has.
pub(crate) fn aliases(vs: &VarStore) -> BTreeMap<String, String> {
    with_aliases(vs).1
}

/// All names of each tensor that has several, by the first.
pub(crate) fn names(vs: &VarStore) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (alias, name) in aliases(vs) {
        names.entry(name.clone()).or_insert_with(|| vec![name]).push(alias);
    }
    names
}

fn with_aliases(vs: &VarStore) -> (Vec<(String, Tensor)>, BTreeMap<String, String>) {
    let mut all: Vec<_> = vs.variables().into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut names, mut aliases) = (HashMap::new(), BTreeMap::new());
    all.retain(|(name, tensor)| match names.entry(id(tensor)) {
        Entry::Vacant(entry) => {
            entry.insert(name.clone());
            true
        }
        Entry::Occupied(entry) => {
            aliases.insert(name.clone(), entry.get().clone());
            false
        }
    });
    (all, aliases)
}

/// Pointers to the tensors, for as long as these live.
pub(crate) fn pointers<'a>(tensors: impl IntoIterator<Item = &'a (String, Tensor)>) -> Vec<*mut sys::C_tensor> {
    tensors.into_iter().map(|(_, tensor)| tensor.as_ptr().cast_mut()).collect()
}

/// Two handles of one tensor have the same.
pub(crate) fn id(tensor: &Tensor) -> usize {
    // SAFETY: `tensor` is a live tensor, which the call only looks at.
    unsafe { sys::ddp_tensor_id(tensor.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// One tensor under several names, added in any order: `HashMap`s have another order in each run.
    #[test]
    fn tied_weights_have_their_first_name_and_are_trained_once() {
        for order in [["wte", "head", "out"], ["out", "wte", "head"], ["head", "out", "wte"]] {
            let vs = VarStore::new(Device::Cpu);
            let first = vs.root().var("bias", &[2], tch::nn::Init::Const(0.0));
            let tied = Tensor::ones([2, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            for name in order {
                let _ = vs.root().add(name, tied.shallow_clone(), true);
            }
            let names = |tensors: Vec<(String, Tensor)>| tensors.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
            assert_eq!(names(trained(&vs)), ["bias", "head"]);
            assert_eq!(names(all(&vs)), ["bias", "head"]);
            let aliases = aliases(&vs).into_iter().collect::<Vec<_>>();
            assert_eq!(aliases, [("out", "head"), ("wte", "head")].map(|(a, b)| (a.to_owned(), b.to_owned())));
            assert_eq!(trained_tensors(&vs).iter().map(id).collect::<Vec<_>>(), [id(&first), id(&tied)]);
            let _ = tied.set_requires_grad(false);
            assert_eq!(names(frozen(&vs)), ["head"]);
            assert_eq!(names(buffers(&vs)), Vec::<String>::new());
        }
    }
}
