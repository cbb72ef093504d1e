//! Which tensor of a snapshot belongs to which variable of a model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tch::Tensor;
use tch::nn::VarStore;

use crate::dist::params;
use crate::{Error, Result};

/// A PyTorch BatchNorm's count of batches, which tch's does not have.
const NUM_BATCHES_TRACKED: &str = "num_batches_tracked";

/// Pairs each variable of the model with its tensor in the snapshot: all of them, or what does not fit. `aliases` are the
/// further names of the snapshot's tensors.
///
/// A variable with several names (tied weights) may be saved under any of them, or under several if all are equal.
pub(super) fn pairs<'a>(
    model: &VarStore,
    saved: &'a HashMap<String, Tensor>,
    aliases: &BTreeMap<String, String>,
) -> Result<Vec<(Tensor, &'a Tensor)>, String> {
    let names_of = params::names(model);
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let mut pairs = Vec::new();
    for (name, variable) in params::all(model) {
        let names = names_of.get(&name).map_or_else(|| std::slice::from_ref(&name), Vec::as_slice);
        let under = |name: &String| saved.get_key_value(name).or_else(|| saved.get_key_value(aliases.get(name)?));
        let mut found: Vec<(&str, &Tensor)> = names.iter().filter_map(under).map(|(n, t)| (n.as_str(), t)).collect();
        found.dedup_by_key(|(name, _)| *name);
        let Some(&(first, tensor)) = found.first() else {
            return Err(format!("the snapshot has no {}", names.join(" or ")));
        };
        if tensor.size() != variable.size() || tensor.kind() != variable.kind() {
            let shape = |t: &Tensor| format!("{:?} {:?}", t.size(), t.kind());
            return Err(format!("{first} is {} in the snapshot, but {} in the model", shape(tensor), shape(&variable)));
        }
        if let Some((other, _)) = found.iter().find(|(_, other)| !is_equal(tensor, other)) {
            return Err(format!("{first} and {other} differ, but are one variable of the model (tied weights)"));
        }
        used.extend(found.iter().map(|(name, _)| *name));
        pairs.push((variable, tensor));
    }
    match saved.keys().map(String::as_str).filter(|name| !used.contains(name)).min() {
        Some(name) if name.rsplit('.').next() == Some(NUM_BATCHES_TRACKED) => Err(format!(
            "{name} is a counter of PyTorch's BatchNorm that tch's does not have: import the model again to \
             drop it"
        )),
        Some(name) => Err(format!("the model has no variable {name}")),
        None => Ok(pairs),
    }
}

/// Copies each second one into the first.
pub(super) fn copy(pairs: Vec<(Tensor, &Tensor)>) -> Result<()> {
    let copied = tch::no_grad(|| pairs.into_iter().try_for_each(|(mut to, from)| to.f_copy_(from)));
    copied.map_err(Error::tch("loading the model"))
}

/// Gives an optimizer's states the names of this model's parameters, where they have others of the same tensors.
pub(super) fn rename_states(
    model: &VarStore,
    saved: HashMap<String, Tensor>,
    aliases: &BTreeMap<String, String>,
) -> HashMap<String, Tensor> {
    let of_model = params::aliases(model);
    if of_model.is_empty() && aliases.is_empty() {
        return saved;
    }
    let own: BTreeSet<String> = params::all(model).into_iter().map(|(name, _)| name).collect();
    // This model's name of a tensor.
    let own_name = |name: &str| own.get(name).or_else(|| of_model.get(name)).cloned();
    let rename = |(state, tensor): (String, Tensor)| {
        let Some((parameter, kind)) = state.rsplit_once('.') else { return (state, tensor) };
        let others = aliases.iter().filter(|(_, name)| *name == parameter).map(|(alias, _)| alias.as_str());
        match std::iter::once(parameter).chain(others).find_map(own_name) {
            Some(name) => (format!("{name}.{kind}"), tensor),
            None => (state, tensor),
        }
    };
    saved.into_iter().map(rename).collect()
}

/// To the last bit, also where it is NaN. Both are contiguous, on the CPU.
fn is_equal(a: &Tensor, b: &Tensor) -> bool {
    if a.size() != b.size() || a.kind() != b.kind() {
        return false;
    }
    let length = a.numel() * a.kind().elt_size_in_bytes();
    if length == 0 {
        return true;
    }
    // SAFETY: contiguous tensors on the CPU hold their elements in one run of `length` bytes, for as long as they live.
    let [a, b] = [a, b].map(|t| unsafe { std::slice::from_raw_parts(t.data_ptr().cast::<u8>(), length) });
    a == b
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn ones() -> Tensor {
        Tensor::ones([2], (Kind::Float, Device::Cpu))
    }

    /// A variable for each list of names.
    fn model(variables: &[&[&str]]) -> VarStore {
        let vs = VarStore::new(Device::Cpu);
        for names in variables {
            let tensor = Tensor::zeros([2], (Kind::Float, Device::Cpu));
            names.iter().for_each(|name| drop(vs.root().add(name, tensor.shallow_clone(), true)));
        }
        vs
    }

    fn saved(names: &[&str]) -> HashMap<String, Tensor> {
        names.iter().map(|name| (name.to_string(), ones())).collect()
    }

    fn aliases(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(alias, name)| (alias.to_string(), name.to_string())).collect()
    }

    #[test]
    fn tied_weights_are_found_under_any_of_their_names() {
        let tied = model(&[&["wte", "head"], &["b"]]);
        let untied = model(&[&["wte"], &["head"], &["b"]]);
        for (model, names, further) in [
            (&tied, &["head", "b"][..], &[("wte", "head")][..]),
            (&tied, &["wte", "b"], &[("head", "wte")]),
            (&tied, &["wte", "b"], &[]),
            (&tied, &["wte", "head", "b"], &[]),
            (&tied, &["other", "b"], &[("wte", "other"), ("old", "other")]),
            (&untied, &["head", "b"], &[("wte", "head")]),
            (&untied, &["wte", "head", "b"], &[]),
        ] {
            let (saved, further) = (saved(names), aliases(further));
            let pairs = pairs(model, &saved, &further).unwrap_or_else(|err| panic!("{names:?} {further:?}: {err}"));
            copy(pairs).unwrap();
            assert!(params::all(model).iter().all(|(_, variable)| *variable == ones()), "{names:?}");
            tch::no_grad(|| params::all(model).into_iter().for_each(|(_, mut t)| drop(t.zero_())));
        }
    }

    #[test]
    fn mismatched_parameters_are_named() {
        let tied = model(&[&["wte", "head"]]);
        let problem = |saved: &HashMap<String, Tensor>| pairs(&tied, saved, &BTreeMap::new()).err().unwrap();
        assert_eq!(problem(&saved(&["x"])), "the snapshot has no head or wte");
        assert_eq!(problem(&saved(&["head", "x"])), "the model has no variable x");
        assert!(problem(&saved(&["head", "bn.num_batches_tracked"])).contains("PyTorch's BatchNorm"));
        let mut two = saved(&["head", "wte"]);
        let _ = two.get_mut("wte").unwrap().fill_(f64::NAN);
        assert_eq!(problem(&two), "head and wte differ, but are one variable of the model (tied weights)");
    }

    #[test]
    fn states_follow_their_parameter_to_another_name() {
        let tied = model(&[&["wte", "head"], &["b"]]);
        let renamed = |states: &[&str], further: &[(&str, &str)]| {
            let mut names: Vec<_> = rename_states(&tied, saved(states), &aliases(further)).into_keys().collect();
            names.sort();
            names
        };
        let (b, head) = ("b.exp_avg", "head.exp_avg");
        assert_eq!(renamed(&[b, head], &[]), [b, head]);
        assert_eq!(renamed(&[b, "wte.exp_avg"], &[]), [b, head]);
        assert_eq!(renamed(&[b, "a.exp_avg"], &[("head", "a")]), [b, head]);
        assert_eq!(renamed(&[b, "a.exp_avg"], &[("wte", "a")]), [b, head]);
        assert_eq!(renamed(&["x.exp_avg"], &[]), ["x.exp_avg"]);
    }
}
