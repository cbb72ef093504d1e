//! The position of a loader in its epoch, for snapshots.

use serde::{Deserialize, Serialize};

/// The position of a loader. Part of what a training run needs to resume in the middle of an epoch; see
/// [`DataLoader::resume_at`](crate::data::DataLoader::resume_at).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Samples of the epoch that all ranks together have been given, repeated ones included.
    pub samples: u64,
}
