//! Workers that live but show no progress.

use std::time::{Duration, Instant};

use super::{Action, Dispatcher, Phase, Rank, SIGTERM};
use crate::launch::outcome::Failure;

/// How long a job whose workers send events may go without one.
const STALL_TIMEOUT: Duration = Duration::from_secs(600);

impl Dispatcher {
    /// The rank that is watched for stalls and has been quiet longest.
    pub(super) fn quietest(&self) -> Option<&Rank> {
        let explicit = self.rules.stall_timeout.is_some();
        self.ranks.iter().filter(|rank| rank.alive && (explicit || rank.sends_events)).min_by_key(|rank| rank.sign)
    }

    pub(super) fn stall_deadline(&self) -> Option<Instant> {
        let timeout = self.rules.stall_timeout.unwrap_or(STALL_TIMEOUT);
        if self.stalled || timeout.is_zero() {
            return None;
        }
        Some(self.quietest()?.sign + timeout)
    }

    pub(super) fn traced(&mut self, rank: usize, pid: u32, now: Instant) -> Vec<Action> {
        let stalled = matches!(self.phase, Phase::Running) && self.stalled && self.ranks[rank].alive;
        if !self.rules.restart_on_stall || !stalled {
            return vec![];
        }
        let idle = now.duration_since(self.ranks[rank].sign);
        let failure = Failure { stalled: Some(idle), ..self.failure(rank, pid) };
        self.stop_after(failure, now);
        vec![Action::Signal(SIGTERM)]
    }
}
