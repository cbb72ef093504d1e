//! What dropped objects leave to be done.
//!
//! Groups, metrics, loaders and snapshots are dropped when a training function returns, also when it returns an error. Which of
//! the two it is, [`main`](crate::main) learns afterwards. So what takes time or other ranks is done then: after a failure,
//! first the reason is recorded, and nothing is exchanged with other ranks, which must see this process end before they see
//! its groups close.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// What is left to be done.
pub(crate) trait Deferred: Send {
    /// The program continues, or has succeeded.
    fn finish(self: Box<Self>);

    /// The program has failed, and recorded why. The process ends next.
    fn after_failure(self: Box<Self>) {
        std::mem::forget(self);
    }
}

/// What is left, in the order in which it was dropped; `None` outside of [`main`](crate::main).
pub(crate) struct Deferrals(Mutex<Option<Vec<Box<dyn Deferred>>>>);

impl Deferrals {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// From now on, what is dropped waits for `finish` or `after_failure`.
    pub(super) fn begin(&self) {
        *self.lock() = Some(Vec::new());
    }

    /// Leaves `deferred` for later. Outside of [`main`](crate::main) it is done now.
    pub(crate) fn defer(&self, deferred: impl Deferred + 'static) {
        let deferred = Box::new(deferred);
        match self.lock().as_mut() {
            Some(left) => return left.push(deferred),
            None if thread::panicking() => return deferred.after_failure(),
            None => {}
        }
        deferred.finish();
    }

    /// The program continues, or has succeeded: does what is left. Called when a step is reported, and by whatever makes such
    /// objects, so that they do not pile up.
    pub(crate) fn finish(&self) {
        loop {
            let left = self.lock().as_mut().map(std::mem::take).unwrap_or_default();
            if left.is_empty() {
                return;
            }
            left.into_iter().for_each(|deferred| deferred.finish());
        }
    }

    /// The program has failed, and recorded why.
    pub(super) fn after_failure(&self) {
        let left = self.lock().as_mut().map(std::mem::take).unwrap_or_default();
        left.into_iter().for_each(|deferred| deferred.after_failure());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Box<dyn Deferred>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
