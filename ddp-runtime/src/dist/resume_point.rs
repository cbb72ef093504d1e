//! The step that this process resumed from, which snapshots and metrics share.

use std::sync::{Arc, OnceLock};

/// The step that a run was resumed from, in this process: `Snapshots` set it, and metrics begin there. A
/// [`Context`](crate::Context) owns it; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResumePoint(Arc<OnceLock<u64>>);

impl ResumePoint {
    /// The run resumes after this many steps. The first call counts.
    pub(crate) fn set(&self, step: u64) {
        let _ = self.0.set(step);
    }

    /// The optimizer steps that were done when training went on from a snapshot, if it did.
    pub(crate) fn step(&self) -> Option<u64> {
        self.0.get().copied()
    }
}
