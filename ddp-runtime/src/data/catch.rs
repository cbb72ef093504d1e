use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::data::BatchDataset;
use crate::error::without_trace;
use crate::{Error, Result};

/// `call`'s result, or its panic as an [`Error::Panicked`].
pub(super) fn caught<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    // What `call` leaves half done is the user's dataset, which no batch is taken from after an error.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(Error::Panicked(message(panic.as_ref()))))
}

/// The batch at `indices`; an error or panic names them.
pub(super) fn batch<D: BatchDataset>(dataset: &D, indices: &[i64]) -> Result<D::Batch> {
    // Data has no graph; the guard is undone by a panic too.
    let _guard = tch::no_grad_guard();
    caught(|| dataset.batch(indices)).map_err(|err| match err {
        Error::Sample { .. } => err,
        reason => Error::Batch { indices: indices.to_vec(), reason: Box::new(reason) },
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    without_trace(text.unwrap_or("without a message"))
}
