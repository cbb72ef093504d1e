//! When to save: by steps, epochs and time.

use std::time::{Duration, Instant};

use super::Progress;

/// What was asked for; nothing is due if nothing was.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) every_steps: Option<u64>,
    pub(super) every_epochs: Option<u64>,
    pub(super) every: Option<Duration>,
    /// Where the last call found the run.
    seen: Progress,
    /// The last snapshot's time.
    saved: Instant,
}

impl Default for Due {
    fn default() -> Self {
        let (every_steps, every_epochs, every) = (None, None, None);
        Self { every_steps, every_epochs, every, seen: Progress::default(), saved: Instant::now() }
    }
}

impl Due {
    /// Whether a step or epoch that asks for a snapshot was passed since the last call.
    pub(super) fn passed(&mut self, now: Progress) -> bool {
        let seen = std::mem::replace(&mut self.seen, now);
        let passed = |every: Option<u64>, now: u64, seen: u64| {
            every.filter(|every| *every > 0).is_some_and(|every| now / every > seen / every)
        };
        passed(self.every_steps, now.step, seen.step) || passed(self.every_epochs, now.epoch, seen.epoch)
    }

    /// Whether the run asked for snapshots in its course.
    pub(super) fn is_asked_for(&self) -> bool {
        [self.every_steps, self.every_epochs].into_iter().flatten().any(|every| every > 0) || self.every.is_some()
    }

    /// Whether the interval has elapsed, by this rank's clock.
    pub(super) fn interval_elapsed(&self) -> bool {
        self.every.is_some_and(|every| self.saved.elapsed() >= every)
    }

    /// Where the run was started or last saved.
    pub(super) fn restart_clock(&mut self) {
        self.saved = Instant::now();
    }

    pub(super) fn resumed(&mut self, at: Progress) {
        self.seen = at;
        self.restart_clock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, step: u64) -> Progress {
        Progress { epoch, step, samples: 0 }
    }

    #[test]
    fn snapshot_is_due_once_per_interval() {
        let mut due = Due { every_steps: Some(10), every_epochs: Some(2), ..Due::default() };
        assert!(!due.passed(at(0, 9)));
        assert!(due.passed(at(0, 11)), "step 10 was passed");
        assert!(!due.passed(at(0, 11)));
        assert!(!due.passed(at(1, 12)));
        assert!(due.passed(at(2, 13)));
        assert!(!due.passed(at(2, 14)));
        due.resumed(at(7, 95));
        assert!(!due.passed(at(7, 96)));
        assert!(due.passed(at(8, 97)));
        assert!(!Due { every_steps: Some(0), ..Due::default() }.passed(at(5, 5)), "0 is never");
        assert!(!Due::default().passed(at(9, 9)));
    }
}
