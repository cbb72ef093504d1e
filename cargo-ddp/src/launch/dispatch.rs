//! What to do when something happens: a state machine over ranks, without processes, clocks or pipes.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use ddp_contract::Event;

/// SIGTERM, which asks a worker to stop.
pub(super) const SIGTERM: i32 = 15;
/// SIGUSR1, which asks workers that know it to save and leave.
const SIGUSR1: i32 = 10;
/// How a worker ends that was asked to stop, and has saved all.
const PREEMPTED: Exit = Exit::Code(ddp_contract::exit::PREEMPTED as i32);
/// SIGKILL.
pub(super) const SIGKILL: i32 = 9;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match status.code() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.signal().unwrap_or(SIGKILL)),
        }
    }
}

/// A worker's failure, and what it led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The rank that failed first.
    pub rank: usize,
    /// Its process.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// The last step that it had reported.
    pub step: Option<u64>,
    /// The attempt in which it failed, from 0.
    pub attempt: u32,
    /// The ranks that ended after it, before they were told to or because they were.
    pub consequences: Vec<(usize, Exit)>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All workers ended with code 0.
    Done {
        /// Restarts that it took.
        restarts: u32,
    },
    /// The workers were told to stop, have saved a snapshot, and left.
    Preempted {
        /// The newest snapshot that they told of.
        snapshot: Option<PathBuf>,
    },
    /// A worker failed, and there were no restarts left.
    Failed(Failure),
    /// The launcher was told to stop by this signal.
    Stopped(i32),
}

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    Exited {
        rank: usize,
        pid: u32,
        exit: Exit,
    },
    Event {
        rank: usize,
        event: Event,
    },
    Signal(i32),
    /// Time has passed.
    Tick,
}

/// What to do about it.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Send a signal to every worker that lives.
    Signal(i32),
    /// Start all workers again, after this failure.
    Restart {
        after: Failure,
        attempt: u32,
    },
    Finish(Verdict),
}

/// The newest snapshot that the workers have told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) snapshot: PathBuf,
    pub(super) step: u64,
}

pub(super) struct Dispatcher {
    max_restarts: u32,
    grace: Duration,
    attempt: u32,
    alive: Vec<bool>,
    steps: Vec<Option<u64>>,
    newest: Option<Known>,
    stopping: Option<Stopping>,
    /// A worker of this attempt has ended as [`PREEMPTED`].
    preempted: bool,
}

struct Stopping {
    reason: Reason,
    /// When to kill those that are still there; `None` once that is done.
    deadline: Option<Instant>,
}

enum Reason {
    Failure(Failure),
    Signal(i32),
}

impl Dispatcher {
    pub(super) fn new(nproc: usize, max_restarts: u32, grace: Duration) -> Self {
        let (alive, steps) = (vec![true; nproc], vec![None; nproc]);
        Self { max_restarts, grace, attempt: 0, alive, steps, newest: None, stopping: None, preempted: false }
    }

    /// The attempt in progress, from 0.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(super) fn newest_snapshot(&self) -> Option<&Known> {
        self.newest.as_ref()
    }

    /// When to call again with [`Input::Tick`] at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stopping.as_ref()?.deadline
    }

    pub(super) fn handle(&mut self, input: Input, now: Instant) -> Vec<Action> {
        match input {
            Input::Exited { rank, pid, exit } => self.exited(rank, pid, exit, now),
            Input::Event { rank, event } => {
                self.note(rank, event);
                vec![]
            }
            Input::Signal(signal) => self.signalled(signal, now),
            Input::Tick => match &mut self.stopping {
                Some(stopping) if stopping.deadline.is_some_and(|deadline| deadline <= now) => {
                    stopping.deadline = None;
                    vec![Action::Signal(SIGKILL)]
                }
                _ => vec![],
            },
        }
    }

    fn exited(&mut self, rank: usize, pid: u32, exit: Exit, now: Instant) -> Vec<Action> {
        self.alive[rank] = false;
        let last = !self.alive.contains(&true);
        self.preempted |= exit == PREEMPTED;
        match &mut self.stopping {
            Some(stopping) => {
                if let Reason::Failure(failure) = &mut stopping.reason {
                    failure.consequences.push((rank, exit));
                }
            }
            None if exit == Exit::Code(0) || exit == PREEMPTED => {}
            None => {
                let (step, attempt) = (self.steps[rank], self.attempt);
                let failure = Failure { rank, pid, exit, step, attempt, consequences: vec![] };
                self.stopping = Some(Stopping { reason: Reason::Failure(failure), deadline: Some(now + self.grace) });
                if !last {
                    return vec![Action::Signal(SIGTERM)];
                }
            }
        }
        if last { vec![self.all_gone()] } else { vec![] }
    }

    fn all_gone(&mut self) -> Action {
        match self.stopping.take().map(|stopping| stopping.reason) {
            Some(Reason::Failure(failure)) if self.attempt < self.max_restarts => {
                self.attempt += 1;
                self.alive.fill(true);
                self.steps.fill(None);
                self.preempted = false;
                Action::Restart { after: failure, attempt: self.attempt }
            }
            Some(Reason::Failure(failure)) => Action::Finish(Verdict::Failed(failure)),
            _ if self.preempted => {
                Action::Finish(Verdict::Preempted { snapshot: self.newest.take().map(|known| known.snapshot) })
            }
            Some(Reason::Signal(signal)) => Action::Finish(Verdict::Stopped(signal)),
            None => Action::Finish(Verdict::Done { restarts: self.attempt }),
        }
    }

    /// The first signal goes on to the workers, so that they can end well; the second kills them. SIGUSR1 goes on, too,
    /// and what comes of it is theirs to say.
    fn signalled(&mut self, signal: i32, now: Instant) -> Vec<Action> {
        match &mut self.stopping {
            None if signal == SIGUSR1 => vec![Action::Signal(SIGUSR1)],
            Some(_) if signal == SIGUSR1 => vec![],
            Some(Stopping { reason: Reason::Signal(_), deadline }) => {
                *deadline = None;
                vec![Action::Signal(SIGKILL)]
            }
            _ => {
                self.stopping = Some(Stopping { reason: Reason::Signal(signal), deadline: Some(now + self.grace) });
                vec![Action::Signal(signal)]
            }
        }
    }

    fn note(&mut self, rank: usize, event: Event) {
        match event {
            Event::Step { step, .. } => self.steps[rank] = Some(step),
            Event::SnapshotSaved { snapshot, step, .. } | Event::Resumed { snapshot, step, .. } => {
                self.newest = Some(Known { snapshot, step });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGINT: i32 = 2;

    struct Job {
        dispatcher: Dispatcher,
        now: Instant,
    }

    impl Job {
        fn new(nproc: usize, max_restarts: u32) -> Self {
            Self { dispatcher: Dispatcher::new(nproc, max_restarts, Duration::from_secs(10)), now: Instant::now() }
        }

        fn exit(&mut self, rank: usize, exit: Exit) -> Vec<Action> {
            self.dispatcher.handle(Input::Exited { rank, pid: 100 + rank as u32, exit }, self.now)
        }

        fn signal(&mut self, signal: i32) -> Vec<Action> {
            self.dispatcher.handle(Input::Signal(signal), self.now)
        }

        fn after(&mut self, seconds: u64) -> Vec<Action> {
            self.now += Duration::from_secs(seconds);
            self.dispatcher.handle(Input::Tick, self.now)
        }
    }

    #[test]
    fn a_job_is_done_when_all_ranks_are() {
        let mut job = Job::new(2, 0);
        assert_eq!(job.exit(1, Exit::Code(0)), []);
        assert_eq!(job.exit(0, Exit::Code(0)), [Action::Finish(Verdict::Done { restarts: 0 })]);
    }

    #[test]
    fn the_first_failure_is_the_cause_and_stops_the_others() {
        let mut job = Job::new(3, 0);
        let step = Event::Step { epoch: 0, step: 12, loss: None };
        job.dispatcher.handle(Input::Event { rank: 1, event: step }, job.now);
        assert_eq!(job.exit(1, Exit::Signal(SIGKILL)), [Action::Signal(SIGTERM)]);
        assert_eq!(job.exit(0, Exit::Code(1)), []);
        let consequences = vec![(0, Exit::Code(1)), (2, Exit::Signal(SIGTERM))];
        let failure =
            Failure { rank: 1, pid: 101, exit: Exit::Signal(SIGKILL), step: Some(12), attempt: 0, consequences };
        assert_eq!(job.exit(2, Exit::Signal(SIGTERM)), [Action::Finish(Verdict::Failed(failure))]);
    }

    #[test]
    fn all_restart_as_often_as_they_may() {
        let mut job = Job::new(2, 1);
        job.exit(0, Exit::Code(3));
        assert!(matches!(job.exit(1, Exit::Signal(SIGTERM))[..], [Action::Restart { attempt: 1, .. }]));
        job.exit(0, Exit::Code(3));
        assert!(matches!(job.exit(1, Exit::Signal(SIGTERM))[..], [Action::Finish(Verdict::Failed(_))]));
    }

    #[test]
    fn a_rank_that_fails_after_the_others_are_done_fails_the_job() {
        let mut job = Job::new(2, 0);
        job.exit(0, Exit::Code(0));
        assert!(matches!(job.exit(1, Exit::Code(1))[..], [Action::Finish(Verdict::Failed(_))]));
    }

    #[test]
    fn who_does_not_stop_in_time_is_killed_once() {
        let mut job = Job::new(2, 0);
        job.exit(0, Exit::Code(1));
        assert_eq!(job.after(9), []);
        assert_eq!(job.after(1), [Action::Signal(SIGKILL)]);
        assert_eq!(job.dispatcher.deadline(), None);
        assert_eq!(job.after(60), []);
    }

    #[test]
    fn a_signal_goes_on_to_the_workers_and_the_second_kills() {
        let mut job = Job::new(2, 3);
        assert_eq!(job.signal(SIGINT), [Action::Signal(SIGINT)]);
        assert_eq!(job.signal(SIGINT), [Action::Signal(SIGKILL)]);
        job.exit(0, Exit::Signal(SIGKILL));
        assert_eq!(job.exit(1, Exit::Signal(SIGKILL)), [Action::Finish(Verdict::Stopped(SIGINT))]);
    }

    #[test]
    fn workers_that_save_and_leave_when_asked_did_not_fail() {
        for asked in [SIGTERM, SIGUSR1] {
            let mut job = Job::new(2, 3);
            let snapshot = PathBuf::from("snapshots/step-00000007");
            assert_eq!(job.signal(asked), [Action::Signal(asked)]);
            let saved = Event::SnapshotSaved { snapshot: snapshot.clone(), epoch: 0, step: 7 };
            job.dispatcher.handle(Input::Event { rank: 0, event: saved }, job.now);
            assert_eq!(job.exit(1, PREEMPTED), []);
            let snapshot = Some(snapshot);
            assert_eq!(job.exit(0, PREEMPTED), [Action::Finish(Verdict::Preempted { snapshot })]);
        }
    }

    #[test]
    fn sigusr1_alone_ends_nothing() {
        let mut job = Job::new(2, 0);
        assert_eq!(job.signal(SIGUSR1), [Action::Signal(SIGUSR1)]);
        assert_eq!(job.signal(SIGUSR1), [Action::Signal(SIGUSR1)]);
        assert_eq!(job.dispatcher.deadline(), None);
        job.exit(0, Exit::Code(0));
        assert_eq!(job.exit(1, Exit::Code(0)), [Action::Finish(Verdict::Done { restarts: 0 })]);
    }

    #[test]
    fn a_signal_during_a_restart_stops_the_job() {
        let mut job = Job::new(2, 3);
        job.exit(0, Exit::Code(1));
        assert_eq!(job.signal(SIGTERM), [Action::Signal(SIGTERM)]);
        assert_eq!(job.exit(1, Exit::Code(0)), [Action::Finish(Verdict::Stopped(SIGTERM))]);
    }
}
