//! A snapshot that is still being written when the run ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ddp_contract::lock::Lock;

use super::write::Writing;
use crate::worker::deferred::Deferred;
use crate::worker::failure::fail_at_end;
use crate::worker::say::say;

/// A snapshot that was still being written when its `Snapshots` were dropped.
pub(super) struct Unfinished {
    writing: Writing,
    dir: PathBuf,
    /// Until the snapshot is on disk, no other program may write there.
    lock: Option<Arc<Lock>>,
}

/// After this time, a program that waits for a snapshot prints a note.
pub(super) const LONG: Duration = Duration::from_secs(60);

impl Unfinished {
    pub(super) fn new(writing: Writing, dir: PathBuf, lock: Option<Arc<Lock>>) -> Self {
        Self { writing, dir, lock }
    }
}

impl Deferred for Unfinished {
    fn finish(self: Box<Self>) {
        let Self { writing, dir, lock } = *self;
        if !writing.is_done_within(LONG) {
            say(format_args!("note: the last snapshot is still being written to {}", dir.display()));
        }
        if let Err(err) = writing.wait().1 {
            fail_at_end(format!("the last snapshot was not saved: {err}"));
        }
        drop(lock);
    }

    /// The last snapshot is worth some waiting, as the next attempt resumes from it.
    fn after_failure(self: Box<Self>) {
        if !self.writing.is_done_within(LONG) {
            let (dir, seconds) = (self.dir.display(), LONG.as_secs());
            say(format_args!("warning: the last snapshot is lost: writing it to {dir} took more than {seconds} s"));
        }
        std::mem::forget(self);
    }
}
