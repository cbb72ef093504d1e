//! The iterator over a rank's batches of an epoch.

use std::cell::Cell;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

// `super` is another module when schedules are checked: see `schedules.rs`.
use super::workers::{Load, Workers};
use crate::Result;
use crate::data::Position;
use crate::data::loader::transfer::{Ahead, StartCopy, Transfer};

/// This rank's batches of an epoch, in order: see [`DataLoader::epoch`](crate::data::DataLoader::epoch).
///
/// After an error there are no more batches. Dropping it, early or not, ends its worker threads and waits for them, for at
/// most 5 s. (In [`main`](crate::main) it waits when the next epoch starts, the next step is reported or the program ends, and
/// not after an error.)
pub struct Batches<'a, B> {
    pub(super) load: Arc<Load<B>>,
    /// `None`: batches are made by the thread that asks for them.
    pub(super) workers: Option<Workers<B>>,
    pub(super) transfer: Option<Transfer<B>>,
    /// On a GPU: how the next batch is copied while the step runs, if a worker has it ready.
    pub(super) start_copy: Option<Box<StartCopy<B>>>,
    /// The next batch, on its way: never more than one.
    pub(super) ahead: Option<Result<Ahead<B>>>,
    pub(super) cursor: Cursor<'a>,
}

/// How far an epoch is, in this rank's batches and all ranks' samples.
pub(super) struct Cursor<'a> {
    pub next: usize,
    pub batches: usize,
    pub batch_size: usize,
    /// This rank's samples.
    pub samples: usize,
    pub num_replicas: usize,
    /// Where the batches start.
    pub start: Position,
    /// The loader's.
    pub position: &'a Cell<Position>,
}

impl Cursor<'_> {
    /// One more batch is in the training loop's hands.
    fn advance(&mut self) {
        self.next += 1;
        let mine = (self.next * self.batch_size).min(self.samples);
        let samples = self.start.samples + (mine * self.num_replicas) as u64;
        self.position.set(Position { samples, ..self.start });
    }
}

impl<B: Send + 'static> Batches<'_, B> {
    /// The batch of this number, on its device.
    fn batch(&mut self, number: usize) -> Result<B> {
        if let Some(ahead) = self.ahead.take() {
            return ahead?.arrive();
        }
        let batch = match &self.workers {
            Some(workers) => workers.take(number),
            None => (self.load)(number),
        }?;
        match self.transfer {
            Some(Transfer { device, send, .. }) => send(batch, device),
            None => Ok(batch),
        }
    }

    /// Starts the copy of the next batch if it is made.
    fn copy_ahead(&mut self) {
        if let (Some(start_copy), Some(workers)) = (&self.start_copy, &self.workers) {
            let batch = workers.take_if_made(self.cursor.next);
            self.ahead = batch.map(|batch| batch.and_then(start_copy));
        }
    }
}

impl<B: Send + 'static> Iterator for Batches<'_, B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        let number = self.cursor.next;
        if number >= self.cursor.batches {
            return None;
        }
        let batch = self.batch(number);
        match &batch {
            Ok(_) => self.cursor.advance(),
            Err(_) => self.cursor.batches = number,
        }
        if self.cursor.next >= self.cursor.batches {
            self.workers = None;
        } else {
            self.copy_ahead();
        }
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.cursor.batches - self.cursor.next;
        (left.min(1), Some(left)) // an error ends it early
    }
}

impl<B: Send + 'static> FusedIterator for Batches<'_, B> {}

impl<B> fmt::Debug for Batches<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cursor { next, batches, .. } = self.cursor;
        f.debug_struct("Batches").field("next", &next).field("batches", &batches).finish_non_exhaustive()
    }
}
