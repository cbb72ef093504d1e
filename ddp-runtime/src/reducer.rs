//! The order in which a reducer's buckets hold gradients, which snapshots keep.
//!
//! After its first backward pass, DDP rebuilds its buckets in the order in which the gradients were ready. With three or more
//! ranks, the place of a gradient in its bucket decides in which order the ranks' numbers are added, and so the last bit of
//! the sum. A resumed run that used its first buckets again in its first step would not end with the numbers of an
//! uninterrupted one.

use std::collections::HashMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tch::nn::{VarStore, Variables};

use crate::sys;

/// c10d's reducer.
#[derive(Debug)]
pub(crate) struct Reducer {
    raw: NonNull<sys::ddp_reducer>,
    /// Of its parameters, by index.
    names: Vec<String>,
}

// SAFETY: the reducer may be freed by, and used from, another thread than the one that made it.
unsafe impl Send for Reducer {}
// SAFETY: the methods here take the reducer's own lock. For all else there is `as_ptr`, with rules of its own.
unsafe impl Sync for Reducer {}

impl Reducer {
    /// # Safety
    /// `raw` came from `ddp_reducer_new`, which was given as many parameters as there are names, and nobody else frees it.
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::ddp_reducer>, names: Vec<String>) -> Self {
        Self { raw, names }
    }

    /// To be used by one thread at a time.
    pub(crate) fn as_ptr(&self) -> *mut sys::ddp_reducer {
        self.raw.as_ptr()
    }

    /// The parameters' names as the rebuilt buckets hold their gradients. Empty before the first backward pass, and where
    /// buckets are never rebuilt.
    fn order(&self) -> Vec<String> {
        let mut indices = vec![0usize; self.names.len()];
        // SAFETY: the reducer is live and takes its lock; `indices` has that length.
        let known = unsafe { sys::ddp_reducer_bucket_order(self.as_ptr(), indices.as_mut_ptr(), indices.len()) };
        if known { indices.into_iter().map(|index| self.names[index].clone()).collect() } else { vec![] }
    }

    /// Has the next forward pass rebuild the buckets in this order. Does nothing if these are not the names of the
    /// parameters: then the snapshot was made with others trained.
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

/// What is known of a model's gradients.
struct Known {
    model: Weak<Mutex<Variables>>,
    reducer: Weak<Reducer>,
    /// What a snapshot says, for a reducer that is made later.
    order: Vec<String>,
}

impl Known {
    fn is_of(&self, model: &VarStore) -> bool {
        std::ptr::eq(self.model.as_ptr(), Arc::as_ptr(&model.variables_))
    }
}

impl Reducers {
    pub(crate) fn add(&self, model: &VarStore, reducer: &Arc<Reducer>) {
        let mut known = self.lock();
        let order = match known.iter().position(|known| known.is_of(model)) {
            Some(index) => known.swap_remove(index).order,
            None => vec![],
        };
        reducer.set_order(&order);
        known.retain(|known| known.model.strong_count() > 0);
        known.push(Known { model: Arc::downgrade(&model.variables_), reducer: Arc::downgrade(reducer), order });
    }

    /// For a snapshot of the model.
    pub(crate) fn order(&self, model: &VarStore) -> Vec<String> {
        let known = self.lock();
        let reducer = known.iter().find(|known| known.is_of(model)).and_then(|known| known.reducer.upgrade());
        reducer.map(|reducer| reducer.order()).unwrap_or_default()
    }

    /// From a snapshot that the model was loaded from.
    pub(crate) fn set_order(&self, model: &VarStore, order: Vec<String>) {
        let mut known = self.lock();
        let reducer = match known.iter().position(|known| known.is_of(model)) {
            Some(index) => known.swap_remove(index).reducer,
            None => Weak::new(),
        };
        if let Some(reducer) = reducer.upgrade() {
            reducer.set_order(&order);
        }
        known.push(Known { model: Arc::downgrade(&model.variables_), reducer, order });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reducers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().iter().map(|known| &known.reducer)).finish()
    }
}
