//! What ranks request of a run, and how they agree on the step at which it is done.

use std::time::{Duration, Instant};

use crate::{ProcessGroup, Result};

/// What a rank requests, or all ranks have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// A snapshot.
    pub(crate) save: bool,
    /// A snapshot, and then the end.
    pub(crate) stop: bool,
    /// A comparison of the ranks' tensors.
    pub(crate) diff: bool,
}

/// Ranks that see signals, clocks and requests at different moments agree on one step: they exchange their requests every few
/// calls, about once in a period, which costs a small all_reduce each time.
#[derive(Debug)]
pub(crate) struct Consensus {
    /// Calls between two exchanges, the same on all ranks: rank 0 proposes it.
    interval: u64,
    calls_left: u64,
    since: Instant,
}

impl Default for Consensus {
    fn default() -> Self {
        Self { interval: 1, calls_left: 1, since: Instant::now() }
    }
}

impl Consensus {
    /// What all ranks request together, at the calls where they exchange it. Every rank must make the same calls. `request` is
    /// called for an exchange only.
    pub(crate) fn reach(
        &mut self,
        group: &ProcessGroup,
        period: Duration,
        request: impl FnOnce() -> Request,
    ) -> Result<Request> {
        if group.world_size() == 1 {
            return Ok(request());
        }
        self.calls_left -= 1;
        if self.calls_left > 0 {
            return Ok(Request::default());
        }
        let elapsed = self.since.elapsed();
        let proposed = if group.rank() == 0 { next_interval(self.interval, elapsed, period) } else { 0 };
        self.since = Instant::now();
        let Request { save, stop, diff } = request();
        let proposed = i64::try_from(proposed).unwrap_or(i64::MAX);
        let mine = [i64::from(save), i64::from(stop), i64::from(diff), proposed];
        let [save, stop, diff, interval] = group.largest("agreeing on requests", mine)?;
        self.interval = interval.max(1).unsigned_abs();
        self.calls_left = self.interval;
        Ok(Request { save: save != 0, stop: stop != 0, diff: diff != 0 })
    }
}

/// The number of calls that take about `period`, if `interval` calls took `elapsed`; at most twice as many.
fn next_interval(interval: u64, elapsed: Duration, period: Duration) -> u64 {
    let fitting = interval as f64 * period.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
    fitting.clamp(1.0, (interval * 2) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchange_interval_grows_with_the_speed_of_steps() {
        let next =
            |interval, elapsed| next_interval(interval, Duration::from_millis(elapsed), Duration::from_millis(100));
        assert_eq!(next(1, 1), 2);
        assert_eq!(next(64, 64), 100);
        assert_eq!(next(100, 400), 25);
        assert_eq!(next(1, 3000), 1);
    }
}
