//! When to save: by steps, epochs and time, and when the run is asked to stop.

use std::time::{Duration, Instant};

use super::Progress;
use crate::{ProcessGroup, Result};

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

/// What a rank requests, or all ranks have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) save: bool,
    pub(super) stop: bool,
}

/// Ranks that see signals and clocks at different moments agree on one step: they exchange their requests every
/// few calls, about ten times a second, which costs a small all_reduce each time.
#[derive(Debug)]
pub(super) struct Consensus {
    /// Calls between two exchanges, the same on all ranks: rank 0 proposes it.
    interval: u64,
    calls_left: u64,
    since: Instant,
}

const PERIOD: Duration = Duration::from_millis(100);

impl Default for Consensus {
    fn default() -> Self {
        Self { interval: 1, calls_left: 1, since: Instant::now() }
    }
}

impl Consensus {
    /// What all ranks request together, at the calls where they exchange it. Every rank must make the same calls.
    pub(super) fn reach(&mut self, group: &ProcessGroup, request: Request) -> Result<Request> {
        if group.world_size() == 1 {
            return Ok(request);
        }
        self.calls_left -= 1;
        if self.calls_left > 0 {
            return Ok(Request::default());
        }
        let proposed = if group.rank() == 0 { next_interval(self.interval, self.since.elapsed()) } else { 0 };
        self.since = Instant::now();
        let mine = [i64::from(request.save), i64::from(request.stop), i64::try_from(proposed).unwrap_or(i64::MAX)];
        let [save, stop, interval] = group.largest("agreeing on snapshots", mine)?;
        self.interval = interval.max(1).unsigned_abs();
        self.calls_left = self.interval;
        Ok(Request { save: save != 0, stop: stop != 0 })
    }
}

/// The number of calls that take about [`PERIOD`], if `interval` calls took `elapsed`; at most twice as many.
fn next_interval(interval: u64, elapsed: Duration) -> u64 {
    let fitting = interval as f64 * PERIOD.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
    fitting.clamp(1.0, (interval * 2) as f64) as u64
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

    #[test]
    fn exchange_interval_grows_with_the_speed_of_steps() {
        assert_eq!(next_interval(1, Duration::from_millis(1)), 2);
        assert_eq!(next_interval(64, Duration::from_millis(64)), 100);
        assert_eq!(next_interval(100, Duration::from_millis(400)), 25);
        assert_eq!(next_interval(1, Duration::from_secs(3)), 1);
    }
}
