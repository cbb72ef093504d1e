//! `Resumable`: data whose position in an epoch a `Run` saves.

use crate::data::{BatchDataset, DataLoader, Position};

/// What knows which samples of an epoch were trained on, and continues after them: a [`DataLoader`], or a loader of your
/// own. A [`Run`](super::Run) saves the position, so that it resumes in the middle of an epoch.
///
/// [`Position`] is `Resumable` itself, for a loop that counts samples by hand; `()` is for data without a position.
pub trait Resumable {
    /// The epoch, and its samples that all ranks together have trained on.
    fn position(&self) -> Position;

    /// Continues after the samples of `position`.
    fn resume_at(&mut self, position: Position);

    /// The number of this rank's batches in a full epoch, if it is known.
    fn batches_per_epoch(&self) -> Option<u64> {
        None
    }
}

impl<D: BatchDataset> Resumable for DataLoader<D> {
    fn position(&self) -> Position {
        self.position()
    }

    fn resume_at(&mut self, position: Position) {
        self.resume_at(position);
    }

    fn batches_per_epoch(&self) -> Option<u64> {
        Some(self.batches_per_epoch() as u64)
    }
}

impl Resumable for Position {
    fn position(&self) -> Position {
        *self
    }

    fn resume_at(&mut self, position: Position) {
        *self = position;
    }
}

impl Resumable for () {
    fn position(&self) -> Position {
        Position::default()
    }

    fn resume_at(&mut self, _position: Position) {}
}
