//! Whether a model still has the parameters that its [`Ddp`](crate::Ddp) was made for.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use tch::Tensor;
use tch::nn::VarStore;

use crate::dist::params;
use crate::{Error, Result, sys};

/// The parameters of a model when its `Ddp` was made. The reducer averages the gradients of those that were trained; of any
/// other, each rank would keep its own.
pub(crate) struct KnownParameters {
    /// A handle of the model's store, not a copy.
    store: VarStore,
    trained: Vec<(String, Tensor)>,
    frozen: Vec<(String, Tensor)>,
    trained_pointers: Vec<*mut sys::C_tensor>,
    frozen_pointers: Vec<*mut sys::C_tensor>,
    /// How many parameters the store had when they were last compared.
    count: Cell<usize>,
    /// The reducer can do without the gradient of a parameter.
    may_freeze: bool,
}

impl KnownParameters {
    pub(crate) fn new(vs: &VarStore, trained: Vec<(String, Tensor)>, may_freeze: bool) -> Self {
        let frozen = params::frozen(vs);
        let mut store = VarStore::new(vs.device());
        store.variables_ = vs.variables_.clone();
        let count = Cell::new(count(&store));
        let [trained_pointers, frozen_pointers] = [&trained, &frozen].map(params::pointers);
        Self { store, trained, frozen, trained_pointers, frozen_pointers, count, may_freeze }
    }

    pub(crate) fn trained(&self) -> &[(String, Tensor)] {
        &self.trained
    }

    /// Compares what was known with the current model: in each step, so without names as long as nothing changed.
    /// `find_lost` is [`sys::ddp_reducer_find_lost`].
    ///
    /// # Errors
    /// [`Error::ModelChanged`].
    pub(crate) fn check(&self, find_lost: impl Fn(usize) -> Option<usize>) -> Result<()> {
        let is_new = count(&self.store) != self.count.get();
        let is_frozen = !self.may_freeze && find(&self.trained_pointers, false);
        let is_same = !is_new && !is_frozen && !find(&self.frozen_pointers, true) && find_lost(0).is_none();
        if is_same { Ok(()) } else { self.compare(find_lost) }
    }

    fn compare(&self, find_lost: impl Fn(usize) -> Option<usize>) -> Result<()> {
        let known: HashSet<usize> =
            self.trained.iter().chain(&self.frozen).map(|(_, tensor)| params::id(tensor)).collect();
        let mut changes = Vec::new();
        let mut describe = |names: Vec<&str>, change: &str| match names.as_slice() {
            [] => {}
            [name] => changes.push(format!("{name} was {change}")),
            names => changes.push(format!("{} were {change}", names.join(", "))),
        };
        let parameters: HashSet<usize> = self.store.trainable_variables().iter().map(params::id).collect();
        let all = params::all(&self.store);
        let added = all.iter().filter(|(_, t)| parameters.contains(&params::id(t)) && !known.contains(&params::id(t)));
        describe(added.map(|(name, _)| name.as_str()).collect(), "added");
        let unfrozen = self.frozen.iter().filter(|(_, tensor)| tensor.requires_grad());
        describe(unfrozen.map(|(name, _)| name.as_str()).collect(), "unfrozen");
        let frozen = self.trained.iter().filter(|(_, tensor)| !self.may_freeze && !tensor.requires_grad());
        describe(frozen.map(|(name, _)| name.as_str()).collect(), "frozen");
        let lost = std::iter::successors(find_lost(0), |index| find_lost(index + 1));
        describe(lost.map(|index| self.trained[index].0.as_str()).collect(), "converted to another dtype or device");
        if changes.is_empty() {
            // Such as a merge into another store.
            self.count.set(count(&self.store));
            return Ok(());
        }
        Err(Error::ModelChanged { changes: changes.join("; ") })
    }
}

/// Parameters in the store, frozen or not.
fn count(store: &VarStore) -> usize {
    let variables = store.variables_.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    variables.trainable_variables.len()
}

/// Whether one of the tensors is (not) to have a gradient.
fn find(tensors: &[*mut sys::C_tensor], requires_grad: bool) -> bool {
    // SAFETY: the pointers are of tensors that are kept next to them.
    unsafe { sys::ddp_find_requires_grad(tensors.as_ptr(), tensors.len(), requires_grad) >= 0 }
}

impl fmt::Debug for KnownParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |tensors: &[(String, Tensor)]| tensors.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let mut debug = f.debug_struct("KnownParameters");
        debug.field("trained", &names(&self.trained)).field("frozen", &names(&self.frozen)).finish_non_exhaustive()
    }
}
