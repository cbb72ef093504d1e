//! The worker threads of a loader, and the order of their batches.

use std::sync::Arc;

// `super` is another module when schedules are checked: see `schedules.rs`.
use super::sync::{Builder, JoinHandle, Receiver, SyncSender, join, sync_channel};
use crate::{Error, Result};

/// Makes the batch of this number.
pub(super) type Load<B> = dyn Fn(usize) -> Result<B> + Send + Sync;

/// Threads that make batches ahead of the training loop.
///
/// Worker w of n makes batches w, w + n, w + 2n, ... and hands them over in this order through its own channel, so
/// the loop takes batch k from worker k % n: the order is kept without sorting, and as no worker ever waits for another
/// one, nothing can lock up.
pub(super) struct Workers<B> {
    // Dropped before the threads are waited for: a worker whose channel is gone ends.
    channels: Vec<Receiver<Result<B>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<B: Send + 'static> Workers<B> {
    /// Starts `count` workers that make `batches` batches, each worker up to `prefetch` (at least 1) ahead. Each does
    /// `set_up` first; if that fails, its error takes the place of the worker's first batch.
    pub(super) fn start(
        load: &Arc<Load<B>>,
        batches: usize,
        count: usize,
        prefetch: usize,
        set_up: impl Fn() -> Result<()> + Clone + Send + 'static,
    ) -> Result<Self> {
        let mut workers = Self { channels: Vec::with_capacity(count), threads: Vec::with_capacity(count) };
        for worker in 0..count {
            // A worker holds one batch in its hands while the channel is full.
            let (sender, receiver) = sync_channel(prefetch - 1);
            let (load, set_up) = (Arc::clone(load), set_up.clone());
            let thread = Builder::new()
                .name(format!("ddp-data-{worker}"))
                .spawn(move || work(&*load, (worker..batches).step_by(count), set_up, &sender));
            let failed = |err| Error::Invalid(format!("can't start data worker {worker}: {err}"));
            workers.channels.push(receiver);
            workers.threads.push(thread.map_err(failed)?);
        }
        Ok(workers)
    }

    /// Waits for batch number `batch`. Batches must be taken in order, without a gap.
    pub(super) fn take(&self, batch: usize) -> Result<B> {
        let worker = batch % self.channels.len();
        let gone = |_| Err(Error::Panicked { message: format!("data worker {worker} has stopped"), location: None });
        self.channels[worker].recv().unwrap_or_else(gone)
    }

    /// The same batch as [`take`](Self::take) if it is made.
    pub(super) fn take_if_made(&self, batch: usize) -> Option<Result<B>> {
        self.channels[batch % self.channels.len()].try_recv().ok()
    }
}

impl<B> Drop for Workers<B> {
    fn drop(&mut self) {
        self.channels.clear();
        join(std::mem::take(&mut self.threads));
    }
}

/// Makes `batches` until one fails or they are no longer needed.
fn work<B>(
    load: &Load<B>,
    batches: impl Iterator<Item = usize>,
    set_up: impl FnOnce() -> Result<()>,
    sender: &SyncSender<Result<B>>,
) {
    if let Err(err) = set_up() {
        let _ = sender.send(Err(err));
        return;
    }
    for batch in batches {
        let batch = load(batch);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}
