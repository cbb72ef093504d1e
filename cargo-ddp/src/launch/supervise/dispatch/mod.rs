//! What to do when something happens: a state machine over ranks, without processes, clocks or pipes.

mod inputs;
mod restart;
mod similar;
mod stalls;
mod stopping;

use std::time::{Duration, Instant};

use ddp_contract::Event;

pub(crate) use inputs::{Action, Input};
pub(crate) use similar::comparable;

use crate::launch::outcome::{Exit, Failure, Known};
use crate::launch::plan::Rules;

/// SIGTERM, which asks a worker to stop.
pub(crate) const SIGTERM: i32 = libc::SIGTERM;
/// SIGKILL.
pub(crate) const SIGKILL: i32 = libc::SIGKILL;

/// How often to look whether workers that should have ended are still paused in a debugger.
const PAUSE_CHECK: Duration = Duration::from_millis(200);
/// A peer of a dying worker sees the connection's end before the kernel reports the death, and may itself be gone by then.
const SIMULTANEOUS: Duration = Duration::from_secs(1);
/// A program that reports no steps is taken to be starting for this long.
const STARTUP: Duration = Duration::from_secs(60);

pub(crate) struct Dispatcher {
    rules: Rules,
    attempt: u32,
    /// Restarts since the last progress.
    used: u32,
    ranks: Vec<Rank>,
    newest: Option<Known>,
    /// The largest step of any snapshot so far. Only a snapshot of a later step is progress: otherwise, a program that saves but
    /// never resumes would be restarted forever.
    furthest: Option<u64>,
    phase: Phase,
    /// The failure of the attempt before, if there was no progress since.
    previous: Option<Failure>,
    /// When the attempt began.
    started: Instant,
    /// An attempt has got beyond its startup, so the program's arguments are valid.
    has_trained: bool,
    /// A worker of this attempt has ended as [`Exit::PREEMPTED`].
    preempted: bool,
    /// A worker of this attempt has ended neither after its work nor as [`Exit::PREEMPTED`].
    unsaved: bool,
    /// The first worker that failed by itself after the job was asked to stop, and when.
    failed: Option<(Failure, Instant)>,
    /// When the job was asked to stop, it was about to restart after a failure.
    failed_before: bool,
    /// A worker has sent an event, in any attempt.
    has_reported: bool,
    /// The stall in progress was reported.
    stalled: bool,
    /// A node is gone, so there is no further attempt.
    node_is_lost: bool,
}

struct Rank {
    alive: bool,
    step: Option<u64>,
    /// It has sent an event.
    sends_events: bool,
    /// Its last sign of progress.
    sign: Instant,
}

enum Phase {
    Running,
    Stopping {
        reason: Reason,
        /// When to kill those that are still there; `None` once that is done.
        deadline: Option<Instant>,
        /// When to ask a second time.
        reminder: Option<Instant>,
    },
    /// All workers are gone, and will be started at this time.
    Waiting(Instant),
}

enum Reason {
    /// Since when.
    Failure(Failure, Instant),
    Signal(i32),
    NodeLost(String),
}

impl Dispatcher {
    pub(crate) fn new(nproc: usize, rules: Rules, now: Instant) -> Self {
        let ranks = (0..nproc).map(|_| Rank { alive: true, step: None, sends_events: false, sign: now }).collect();
        Self {
            rules,
            attempt: 0,
            used: 0,
            ranks,
            newest: None,
            furthest: None,
            phase: Phase::Running,
            previous: None,
            started: now,
            has_trained: false,
            preempted: false,
            unsaved: false,
            failed: None,
            failed_before: false,
            has_reported: false,
            stalled: false,
            node_is_lost: false,
        }
    }

    /// For a node that has lost the node that decides: what is left here ends.
    pub(crate) fn cut_off(
        world_size: usize,
        rules: Rules,
        alive: &[usize],
        why: String,
        now: Instant,
    ) -> (Self, Vec<Action>) {
        let mut dispatcher = Self::new(world_size, rules, now);
        for (rank, state) in dispatcher.ranks.iter_mut().enumerate() {
            state.alive = alive.contains(&rank);
        }
        let actions = dispatcher.node_lost(0..0, why, now);
        (dispatcher, actions)
    }

    pub(crate) fn newest_snapshot(&self) -> Option<&Known> {
        self.newest.as_ref()
    }

    /// The last step that a rank has reported.
    pub(crate) fn step_of(&self, rank: usize) -> Option<u64> {
        self.ranks[rank].step
    }

    /// When to call again with [`Input::Tick`] at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Running => self.stall_deadline(),
            Phase::Stopping { deadline, reminder, .. } => [*deadline, *reminder].into_iter().flatten().min(),
            Phase::Waiting(until) => Some(*until),
        }
    }

    /// What to do about something that happened.
    pub(crate) fn handle(&mut self, input: Input, now: Instant) -> Vec<Action> {
        if !matches!(input, Input::Event { .. } | Input::Output { .. } | Input::Tick) {
            tracing::debug!(?input, "happened");
        }
        let actions = self.decide(input, now);
        if !actions.is_empty() {
            tracing::debug!(?actions, "decided");
        }
        actions
    }

    fn decide(&mut self, input: Input, now: Instant) -> Vec<Action> {
        match input {
            Input::Exited { rank, pid, exit, message, stderr } => {
                let at_startup = self.is_starting(now);
                let failure = Failure { exit, message, stderr, at_startup, ..self.failure(rank, pid) };
                self.exited(failure, now)
            }
            Input::Event { rank, event } => {
                self.handle_event(rank, event, now);
                vec![]
            }
            Input::Output { rank } => {
                let rank = &mut self.ranks[rank];
                if !rank.sends_events {
                    rank.sign = now;
                }
                vec![]
            }
            Input::Signal(signal) => self.signaled(signal, now),
            Input::Orphaned => self.orphaned(),
            Input::NodeLost { ranks, why } => self.node_lost(ranks, why, now),
            Input::Traced { rank, pid } => self.traced(rank, pid, now),
            Input::Debugged => {
                self.stalled = false;
                self.ranks.iter_mut().for_each(|rank| rank.sign = now);
                vec![]
            }
            Input::Paused | Input::Resumed => {
                let time = if matches!(input, Input::Paused) { PAUSE_CHECK } else { self.rules.grace };
                if let Phase::Stopping { deadline, .. } = &mut self.phase {
                    *deadline = Some(now + time);
                }
                vec![]
            }
            Input::Tick => self.ticked(now),
        }
    }

    fn ticked(&mut self, now: Instant) -> Vec<Action> {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return vec![];
        }
        match &mut self.phase {
            Phase::Running => {
                self.stalled = true;
                let idle = now.duration_since(self.quietest().map_or(now, |rank| rank.sign));
                vec![Action::Trace { idle }]
            }
            Phase::Stopping { reminder: reminder @ Some(_), deadline, .. }
                if deadline.is_some_and(|time| time > now) =>
            {
                *reminder = None;
                vec![Action::Signal(SIGTERM)]
            }
            Phase::Stopping { reason, deadline, reminder } => {
                (*deadline, *reminder) = (None, None);
                vec![match reason {
                    Reason::Failure(..) => Action::KillUnpaused,
                    Reason::Signal(_) | Reason::NodeLost(_) => Action::Signal(SIGKILL),
                }]
            }
            Phase::Waiting(_) => vec![self.start(now)],
        }
    }

    /// Known for programs that report steps; guessed from the time for others.
    fn is_starting(&self, now: Instant) -> bool {
        match self.ranks.iter().any(|rank| rank.sends_events) {
            true => self.ranks.iter().all(|rank| rank.step.is_none()),
            false => now.duration_since(self.started) <= STARTUP,
        }
    }

    fn exited(&mut self, new: Failure, now: Instant) -> Vec<Action> {
        let (rank, exit) = (new.rank, new.exit);
        // Another node may report an end twice, or that of a worker that was not started.
        if !self.ranks[rank].alive {
            return vec![];
        }
        self.ranks[rank].alive = false;
        let last = !self.ranks.iter().any(|rank| rank.alive);
        self.preempted |= exit == Exit::PREEMPTED;
        self.unsaved |= exit != Exit::PREEMPTED && exit != Exit::Code(0);
        match &mut self.phase {
            Phase::Stopping { reason: Reason::Failure(failure, _), .. } if failure.rank == rank => {
                // A rank that was ended because it held the others up.
                failure.exit = exit;
                failure.message = new.message;
            }
            Phase::Stopping { reason: Reason::Failure(failure, since), deadline: Some(_), .. }
                if now.duration_since(*since) <= SIMULTANEOUS && new.explains(failure) =>
            {
                let consequence = std::mem::replace(failure, new);
                failure.consequences = consequence.consequences;
                failure.consequences.insert(0, (consequence.rank, consequence.exit));
            }
            Phase::Stopping { reason: Reason::Failure(failure, _), .. } => failure.consequences.push((rank, exit)),
            Phase::Stopping { reason: Reason::Signal(signal), deadline, .. } => {
                let asked = deadline.is_none() || new.exit.is_answer_to(*signal);
                self.failed_while_stopping(new, asked, now);
            }
            Phase::Stopping { .. } | Phase::Waiting(_) => {}
            Phase::Running if exit == Exit::Code(0) || exit == Exit::PREEMPTED => {}
            Phase::Running => {
                let reported = Action::Failed(new.clone());
                self.stop_after(new, now);
                if !last {
                    return vec![Action::Signal(SIGTERM), reported];
                }
            }
        }
        if last { self.all_gone(now) } else { vec![] }
    }

    /// After a signal to the job, as after a failure, the first one to fail is the cause, unless it only misses a peer that was
    /// dying. `asked`: it ended because of the signal.
    fn failed_while_stopping(&mut self, new: Failure, asked: bool, now: Instant) {
        match &mut self.failed {
            None if asked => {}
            None => self.failed = Some((new, now)),
            Some((first, since)) if !asked && now.duration_since(*since) <= SIMULTANEOUS && new.explains(first) => {
                let consequence = std::mem::replace(first, new);
                first.consequences = consequence.consequences;
                first.consequences.insert(0, (consequence.rank, consequence.exit));
            }
            Some((first, _)) => first.consequences.push((new.rank, new.exit)),
        }
    }

    /// Whether a failure after the job was asked to stop is more than a program's own way to end then, or a peer's end: it says
    /// why, it crashed, or its peers have saved a snapshot.
    fn is_error(&self, failure: &Failure) -> bool {
        let says_why = failure.message.is_some() && !failure.misses_a_peer();
        !self.failed_before && (says_why || matches!(failure.exit, Exit::Signal(_)) || self.preempted)
    }

    fn failure(&self, rank: usize, pid: u32) -> Failure {
        Failure {
            rank,
            pid,
            exit: Exit::Signal(SIGKILL),
            step: self.ranks[rank].step,
            message: None,
            stderr: String::new(),
            at_startup: false,
            attempt: self.attempt,
            stalled: None,
            consequences: vec![],
        }
    }

    fn handle_event(&mut self, rank: usize, event: Event, now: Instant) {
        self.ranks[rank].sends_events = true;
        self.has_reported = true;
        self.ranks[rank].sign = now;
        self.stalled = false;
        match event {
            Event::Step { step, .. } => {
                self.ranks[rank].step = Some(step);
                self.has_trained = true;
            }
            Event::SnapshotSaved { snapshot, step, .. } => {
                if Some(step) > self.furthest {
                    // Real progress: earlier failures no longer count.
                    self.used = 0;
                    self.previous = None;
                    self.furthest = Some(step);
                }
                self.newest = Some(Known { snapshot, step });
            }
            Event::Resumed { snapshot, step, .. } => {
                self.furthest = self.furthest.max(Some(step));
                self.newest = Some(Known { snapshot, step });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
