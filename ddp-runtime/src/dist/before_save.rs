//! What has to happen before a snapshot is saved. A [`Context`](crate::Context) owns it: whatever writes along a run asks for
//! it there, and `Snapshots` do it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Result;

/// Returns `None` when it has nothing more to do, now or later.
type Task = Box<dyn Fn() -> Option<Result<()>> + Send>;

/// Tasks for each save. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct BeforeSave(Arc<Mutex<Vec<Task>>>);

impl BeforeSave {
    /// Has `task` done before each snapshot, on every rank.
    pub(crate) fn add(&self, task: impl Fn() -> Option<Result<()>> + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(task));
    }

    /// A snapshot is about to be saved: runs all tasks, and returns the first error.
    pub(crate) fn run(&self) -> Result<()> {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcome = Ok(());
        tasks.retain(|task| match task() {
            Some(result) => {
                outcome = std::mem::replace(&mut outcome, Ok(())).and(result);
                true
            }
            None => false,
        });
        outcome
    }
}

impl fmt::Debug for BeforeSave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeSave")
    }
}
