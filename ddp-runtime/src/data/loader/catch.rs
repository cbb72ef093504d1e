//! Loads one batch, and turns a panic of the dataset into an error.

use crate::data::BatchDataset;
use crate::worker::panics::caught;
use crate::{Error, Result};

/// The batch at `indices` in an epoch; an error or panic names them.
pub(super) fn batch<D: BatchDataset>(dataset: &D, epoch: u64, indices: &[i64]) -> Result<D::Batch> {
    // Data has no graph; the guard is undone by a panic too.
    let _guard = tch::no_grad_guard();
    caught(|| dataset.batch_in_epoch(epoch, indices)).map_err(|err| match err {
        Error::Sample { .. } => err,
        reason => Error::Batch { indices: indices.to_vec(), reason: Box::new(reason) },
    })
}
