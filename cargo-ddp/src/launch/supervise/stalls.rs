//! What the ranks of a stalled job do.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::process::Pid;

use super::crew::Crew;
use crate::launch::plan::LaunchPlan;
use crate::launch::process::stacks::{Found, Tracing};

/// The stall in progress, if there is one.
#[derive(Default)]
pub(super) struct Stall {
    /// The ranks' steps when the stall was noticed.
    steps: Vec<Option<u64>>,
    tracing: Option<Tracing>,
}

impl Stall {
    /// Has the stacks of this node's workers written.
    pub(super) fn trace(&mut self, steps: Vec<Option<u64>>, crew: &Crew, plan: &LaunchPlan) {
        let file = |rank| plan.stack_file(rank, crew.attempt);
        let ranks = crew.alive().map(|worker| (worker.rank, worker.pid(), file(worker.rank)));
        tracing::debug!(?steps, "stalled: writing the stacks of all ranks");
        self.tracing = Some(Tracing::start(ranks.collect()));
        self.steps = steps;
    }

    /// Once every stack is written, or the time for it is over: what the ranks do.
    pub(super) fn finish(&mut self) -> Option<Found> {
        if !self.tracing.as_mut()?.is_done() {
            return None;
        }
        let found = self.tracing.take()?.finish(|rank| *self.steps.get(rank)?);
        tracing::debug!(suspect = ?found.suspect, "stacks written");
        Some(found)
    }

    pub(super) fn stop(&mut self) {
        if let Some(tracing) = self.tracing.take() {
            tracing.stop();
        }
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tracing.iter().flat_map(Tracing::fds)
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.tracing.iter().flat_map(Tracing::pids)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.tracing.as_ref().map(Tracing::deadline)
    }
}
