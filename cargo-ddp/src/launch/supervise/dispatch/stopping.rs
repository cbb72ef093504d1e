//! How a job is stopped: after a signal, a failure, or the loss of a node.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Action, Dispatcher, Phase, Reason, SIGKILL, SIGTERM};
use crate::launch::outcome::{Failure, Verdict};
use crate::os::signals::is_user_signal;

/// After a failure, ranks that are still there after this time are asked to stop once more.
const REMINDER: Duration = Duration::from_secs(2);

impl Dispatcher {
    /// The first signal is forwarded to the workers, so that they can save; the second kills them. SIGUSR1 and SIGUSR2 are
    /// forwarded, too, and the workers decide what they mean.
    pub(super) fn signaled(&mut self, signal: i32, now: Instant) -> Vec<Action> {
        match &mut self.phase {
            Phase::Running if is_user_signal(signal) => vec![Action::Signal(signal)],
            _ if is_user_signal(signal) => vec![],
            Phase::Waiting(_) => vec![Action::Finish(Verdict::Stopped(signal))],
            Phase::Stopping { reason: Reason::Signal(_), deadline, .. } => {
                *deadline = None;
                vec![Action::Signal(SIGKILL)]
            }
            _ => {
                let deadline = Some(now + self.rules.grace);
                self.failed_before = matches!(self.phase, Phase::Stopping { reason: Reason::Failure(..), .. });
                self.phase = Phase::Stopping { reason: Reason::Signal(signal), deadline, reminder: None };
                vec![Action::Signal(signal)]
            }
        }
    }

    pub(super) fn orphaned(&mut self) -> Vec<Action> {
        if let Phase::Waiting(_) = self.phase {
            return vec![Action::Finish(Verdict::Stopped(SIGKILL))];
        }
        self.phase = Phase::Stopping { reason: Reason::Signal(SIGKILL), deadline: None, reminder: None };
        vec![Action::Signal(SIGKILL)]
    }

    /// What is left of the job ends: nobody can start the missing ranks again.
    pub(super) fn node_lost(&mut self, ranks: Range<usize>, why: String, now: Instant) -> Vec<Action> {
        self.node_is_lost = true;
        for rank in ranks {
            self.ranks[rank].alive = false;
        }
        let others_live = self.ranks.iter().any(|rank| rank.alive);
        // A job that is ending already keeps its reason.
        if matches!(self.phase, Phase::Running | Phase::Waiting(_)) {
            let deadline = Some(now + self.rules.grace);
            self.phase = Phase::Stopping { reason: Reason::NodeLost(why), deadline, reminder: None };
            return if others_live { vec![Action::Signal(SIGTERM)] } else { self.all_gone(now) };
        }
        if others_live { vec![] } else { self.all_gone(now) }
    }

    /// The other ranks end, too. Those of ddp-runtime take a first SIGTERM for a request to save, but may wait for the failed
    /// rank on their GPUs, and take a second one for the end.
    pub(super) fn stop_after(&mut self, failure: Failure, now: Instant) {
        let reminder = self.ranks.iter().all(|rank| rank.sends_events).then(|| now + REMINDER);
        let deadline = Some(now + self.rules.grace);
        self.phase = Phase::Stopping { reason: Reason::Failure(failure, now), deadline, reminder };
    }
}
