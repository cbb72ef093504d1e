//! Layers that need the other ranks, next to tch's own in [`tch::nn`].

mod sync_batch_norm;

pub use sync_batch_norm::{SyncBatchNorm, sync_batch_norm, sync_batch_norm_untracked};
