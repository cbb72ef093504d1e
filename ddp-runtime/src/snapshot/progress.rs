//! `Progress`: the epoch, step and samples that a snapshot belongs to.

use serde::{Deserialize, Serialize};

/// The progress of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// The epoch to continue with, from 0.
    pub epoch: u64,
    /// Optimizer steps done, over all epochs.
    pub step: u64,
    /// Samples of `epoch` that all ranks together have trained on:
    /// [`Position::samples`](crate::data::Position::samples) of a loader, for
    /// [`resume_at`](crate::data::DataLoader::resume_at); 0 between epochs.
    pub samples: u64,
}
