//! What follows once all workers are gone: another attempt, or the end of the job.

use std::time::{Duration, Instant};

use super::{Action, Dispatcher, Phase, Rank, Reason};
use crate::launch::outcome::{Failure, NoRestart, Verdict};

/// The longest time between two attempts.
pub(super) const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

impl Dispatcher {
    pub(super) fn all_gone(&mut self, now: Instant) -> Vec<Action> {
        let verdict = match std::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Stopping { reason: Reason::Failure(failure, _), .. } => match self.why_no_restart(&failure) {
                Some(why) => Verdict::Failed(failure, why),
                None => return self.restart(failure, now),
            },
            Phase::Stopping { reason: Reason::NodeLost(why), .. } => Verdict::NodeLost(why),
            Phase::Stopping { reason: Reason::Signal(signal), .. } if self.unsaved => {
                match self.failed.take().filter(|(failure, _)| self.is_error(failure)) {
                    Some((failure, _)) => Verdict::Failed(failure, NoRestart::Stopping),
                    None => Verdict::Stopped(signal),
                }
            }
            _ if self.preempted => Verdict::Preempted { snapshot: self.newest.take().map(|known| known.snapshot) },
            Phase::Stopping { reason: Reason::Signal(signal), .. } => Verdict::Stopped(signal),
            Phase::Running | Phase::Waiting(_) => Verdict::Done { restarts: self.attempt },
        };
        vec![Action::Finish(verdict)]
    }

    fn why_no_restart(&self, failure: &Failure) -> Option<NoRestart> {
        if self.node_is_lost {
            Some(NoRestart::NodeLost)
        } else if self.rules.max_restarts == 0 {
            Some(NoRestart::Never)
        } else if failure.is_usage_error() && !self.has_trained {
            Some(NoRestart::Usage)
        } else if self.rules.only_reporting && !self.has_reported && failure.stalled.is_none() {
            // (That a stalled rank is restarted was asked for.)
            Some(NoRestart::Unreported)
        } else if self.previous.as_ref().is_some_and(|previous| failure.is_repeat_of(previous)) {
            Some(NoRestart::Again)
        } else if self.used >= self.rules.max_restarts {
            Some(NoRestart::UsedUp(self.used))
        } else {
            None
        }
    }

    fn restart(&mut self, failure: Failure, now: Instant) -> Vec<Action> {
        let delay = match self.used {
            0 => Duration::ZERO,
            n => self.rules.backoff.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_BACKOFF),
        };
        self.used += 1;
        self.attempt += 1;
        self.has_trained |= !failure.at_startup;
        self.previous = Some(failure.clone());
        let announced = Action::Announce { after: failure, attempt: self.attempt, delay };
        if delay.is_zero() {
            return vec![announced, self.start(now)];
        }
        self.phase = Phase::Waiting(now + delay);
        vec![announced]
    }

    pub(super) fn start(&mut self, now: Instant) -> Action {
        self.phase = Phase::Running;
        self.started = now;
        self.preempted = false;
        self.unsaved = false;
        self.failed = None;
        self.stalled = false;
        for rank in &mut self.ranks {
            *rank = Rank { alive: true, step: None, sends_events: false, sign: now };
        }
        Action::Start { attempt: self.attempt }
    }
}
