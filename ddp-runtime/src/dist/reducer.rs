//! The order of gradients in a reducer's buckets. Snapshots save it.
//!
//! After the first backward pass, DDP rebuilds its buckets in the order in which the gradients became ready. With three or more
//! ranks, the position of a gradient in its bucket determines in which order the ranks' values are added, and so the last bits
//! of the sum. A resumed run is bit-identical to an uninterrupted one only if its first step uses the rebuilt buckets, too.

use std::collections::HashMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tch::nn::{VarStore, Variables};

use crate::sys;

/// c10d's reducer.
#[derive(Debug)]
pub(crate) struct Reducer {
    raw: NonNull<sys::ddp_reducer>,
    /// The parameters' names, by index.
    names: Vec<String>,
}

// SAFETY: the reducer may be freed by, and used from, another thread than the one that made it.
unsafe impl Send for Reducer {}
// SAFETY: the methods that take `&self` lock the reducer; callers of `as_ptr` use it from one thread at a time.
unsafe impl Sync for Reducer {}

impl Reducer {
    /// # Safety
    /// `raw` came from `ddp_reducer_new`, which was given as many parameters as there are names, and nobody else frees it.
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::ddp_reducer>, names: Vec<String>) -> Self {
        Self { raw, names }
    }

    /// The raw reducer, for use by one thread at a time.
    pub(crate) fn as_ptr(&self) -> *mut sys::ddp_reducer {
        self.raw.as_ptr()
    }

    /// The parameters' names in the order of the rebuilt buckets. Empty before the first backward pass, and with
    /// `find_unused_parameters`, which never rebuilds buckets.
    fn order(&self) -> Vec<String> {
        let mut indices = vec![0usize; self.names.len()];
        // SAFETY: the reducer is live and takes its lock; `indices` has that length.
        let known = unsafe { sys::ddp_reducer_bucket_order(self.as_ptr(), indices.as_mut_ptr(), indices.len()) };
        if known { indices.into_iter().map(|index| self.names[index].clone()).collect() } else { vec![] }
    }

    /// Makes the next forward pass rebuild the buckets in this order. Does nothing if `order` does not name each parameter
    /// once, as in a snapshot of a run that trained other parameters.
    fn set_order(&self, order: &[String]) {
        let indices: HashMap<&String, usize> = self.names.iter().zip(0..).collect();
        let Some(indices) = order.iter().map(|name| indices.get(name).copied()).collect::<Option<Vec<_>>>() else {
            return;
        };
        let mut sorted = indices.clone();
        sorted.sort_unstable();
        if sorted.into_iter().eq(0..self.names.len()) {
            // SAFETY: the reducer is live and takes its lock; the indices are those of all parameters, each once.
            unsafe { sys::ddp_reducer_set_bucket_order(self.as_ptr(), indices.as_ptr(), indices.len()) }
        }
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: `raw` came from `ddp_reducer_new`; only `drop` frees it.
        unsafe { sys::ddp_reducer_free(self.raw.as_ptr()) }
    }
}

/// The reducers of a context's groups, by model.
#[derive(Clone, Default)]
pub(crate) struct Reducers(Arc<Mutex<Vec<Known>>>);

/// A model and its reducer.
struct Known {
    model: Weak<Mutex<Variables>>,
    reducer: Weak<Reducer>,
    /// The order in the snapshot that the model was loaded from, until the model has a reducer.
    pending: Vec<String>,
}

impl Reducers {
    /// Adds a model's reducer. If the model was loaded from a snapshot before, the reducer gets the snapshot's order.
    pub(crate) fn add(&self, model: &VarStore, reducer: &Arc<Reducer>) {
        self.with(model, |known| {
            known.reducer = Arc::downgrade(reducer);
            reducer.set_order(&std::mem::take(&mut known.pending));
        });
    }

    /// The order to save in a snapshot of the model.
    pub(crate) fn order(&self, model: &VarStore) -> Vec<String> {
        let reducer = self.with(model, |known| known.reducer.upgrade());
        reducer.map(|reducer| reducer.order()).unwrap_or_default()
    }

    /// Restores the order from the snapshot that the model was loaded from.
    pub(crate) fn set_order(&self, model: &VarStore, order: Vec<String>) {
        self.with(model, |known| match known.reducer.upgrade() {
            Some(reducer) => reducer.set_order(&order),
            None => known.pending = order,
        });
    }

    fn with<T>(&self, model: &VarStore, f: impl FnOnce(&mut Known) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.model.strong_count() > 0);
        let is_of_model = |known: &Known| std::ptr::eq(known.model.as_ptr(), Arc::as_ptr(&model.variables_));
        let index = all.iter().position(is_of_model).unwrap_or(all.len());
        if index == all.len() {
            let model = Arc::downgrade(&model.variables_);
            all.push(Known { model, reducer: Weak::new(), pending: vec![] });
        }
        f(&mut all[index])
    }
}

impl fmt::Debug for Reducers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reducers")
    }
}
