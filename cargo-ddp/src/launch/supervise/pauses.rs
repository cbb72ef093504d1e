//! Workers that should end, and are paused in a debugger: somebody looks at them.

use super::crew::Crew;
use super::dispatch::{Input, SIGKILL};
use crate::launch::process::worker::Worker;
use crate::os::proc;

/// The ranks that were reported as paused.
#[derive(Default)]
pub(super) struct Pauses {
    reported: Vec<usize>,
}

impl Pauses {
    pub(super) fn clear(&mut self) {
        self.reported.clear();
    }

    /// The ranks that are paused and were not reported before.
    pub(super) fn unreported(&mut self, crew: &Crew) -> Vec<usize> {
        let paused = crew.alive().filter(|worker| proc::is_paused_by_tracer(worker.pid()));
        let ranks: Vec<_> = paused.map(|worker| worker.rank).filter(|rank| !self.reported.contains(rank)).collect();
        self.reported.extend(&ranks);
        ranks
    }

    /// Kills the workers that had time enough to end. One that was paused has that time from when it runs again.
    pub(super) fn kill_unpaused(&mut self, crew: &Crew) -> Option<Input> {
        let (paused, running): (Vec<_>, Vec<_>) =
            crew.alive().partition(|worker| proc::is_paused_by_tracer(worker.pid()));
        let was_paused = |worker: &&Worker| self.reported.contains(&worker.rank);
        let (resumed, late): (Vec<_>, Vec<_>) = running.into_iter().partition(was_paused);
        late.iter().for_each(|worker| worker.signal(SIGKILL));
        if !paused.is_empty() {
            return Some(Input::Paused);
        }
        self.reported.clear();
        (!resumed.is_empty()).then_some(Input::Resumed)
    }
}
