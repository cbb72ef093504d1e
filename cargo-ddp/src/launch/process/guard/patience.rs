//! How long the guard waits for a launcher that was asked to end.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

use crate::os::signals::is_user_signal;

/// How long a launcher may take to end after the second signal, which ends a job immediately. It waits for the kernel, and for
/// other nodes.
const UNRESPONSIVE: Duration = Duration::from_secs(15);

/// How long the launcher may run after the signals that it was sent.
#[derive(Default)]
pub(super) struct Patience {
    first: Option<i32>,
    end: Option<Instant>,
}

impl Patience {
    pub(super) fn record(&mut self, signal: i32) {
        if is_user_signal(signal) {
            return;
        }
        if self.first.is_some() {
            self.end.get_or_insert_with(|| Instant::now() + UNRESPONSIVE);
        }
        self.first.get_or_insert(signal);
    }

    pub(super) fn left(&self) -> Option<Timespec> {
        Some(timespec(self.end?.saturating_duration_since(Instant::now()) + Duration::from_millis(1)))
    }

    /// The signal that should have ended it.
    pub(super) fn is_over(&self) -> Option<i32> {
        self.first.filter(|_| self.end.is_some_and(|end| Instant::now() >= end))
    }
}

pub(super) fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}
