//! What to do when something happens: a state machine over ranks, without processes, clocks or pipes.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use ddp_contract::Event;
use serde::{Deserialize, Serialize};

/// SIGTERM, which asks a worker to stop.
pub(super) const SIGTERM: i32 = 15;
/// SIGUSR1, which asks workers that know it to save and leave.
const SIGUSR1: i32 = 10;
const SIGUSR2: i32 = 12;
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
/// How a worker ends that was asked to stop, and has saved all.
const PREEMPTED: Exit = Exit::Code(ddp_contract::exit::PREEMPTED as i32);
/// SIGKILL.
pub(super) const SIGKILL: i32 = 9;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The rank that failed first.
    pub rank: usize,
    /// Its process.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// The last step that it had reported.
    pub step: Option<u64>,
    /// What it left in its error file.
    pub message: Option<String>,
    /// The attempt in which it failed, from 0.
    pub attempt: u32,
    /// It was ended because the job made no progress for so long.
    pub stalled: Option<Duration>,
    /// The ranks that ended after it, before they were told to or because they were.
    pub consequences: Vec<(usize, Exit)>,
}

impl Failure {
    /// The same failure at the same place, by a program that says enough to tell. SIGKILL and the polite signals come from
    /// outside, and are never the same.
    fn is_again(&self, other: &Self) -> bool {
        let from_outside = matches!(self.exit, Exit::Signal(SIGKILL | SIGTERM | SIGINT | SIGHUP));
        let told = self.step.is_some() || self.message.is_some();
        told && !from_outside
            && self.stalled.is_none()
            && (self.exit, self.step, &self.message) == (other.exit, other.step, &other.message)
    }
}

/// Why a job was not started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoRestart {
    /// `--max-restarts` is 0.
    Never,
    /// As many as allowed were made without progress.
    UsedUp(u32),
    /// The last attempt failed in the same way at the same step, and would again.
    Again,
    /// A node was lost, too.
    NodeLost,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A worker failed, and the job was not started again.
    Failed(Failure, NoRestart),
    /// The launcher was told to stop by this signal.
    Stopped(i32),
    /// Another node's launcher is gone, for this reason.
    NodeLost(String),
}

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    Exited {
        rank: usize,
        pid: u32,
        exit: Exit,
        message: Option<String>,
    },
    Event {
        rank: usize,
        event: Event,
    },
    /// A worker wrote something.
    Output {
        rank: usize,
    },
    Signal(i32),
    /// The guard is gone: end at once.
    Orphaned,
    /// Another node's launcher is gone, and with it these ranks.
    NodeLost {
        ranks: Range<usize>,
        why: String,
    },
    /// The stacks of a stalled job are written; `rank` seems to hold the others up.
    Traced {
        rank: usize,
        pid: u32,
    },
    /// A debugger is at work on a worker: that the job stands still means nothing.
    Debugged,
    /// Workers that should have ended by now are paused in a debugger.
    Paused,
    /// They go on.
    Resumed,
    /// Time has passed.
    Tick,
}

/// What to do about it.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Send a signal to every worker that lives.
    Signal(i32),
    /// A worker has failed, and the others are asked to stop.
    Failed(Failure),
    /// Kill every worker that lives and is not paused in a debugger: somebody looks at that one.
    KillUnpaused,
    /// Say that all workers will be started again after this failure, in so long.
    Announce {
        after: Failure,
        attempt: u32,
        delay: Duration,
    },
    /// Start all workers.
    Start {
        attempt: u32,
    },
    /// The job has made no progress for so long: find out what each rank does.
    Trace {
        idle: Duration,
    },
    Finish(Verdict),
}

/// The newest snapshot that the workers have told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) snapshot: PathBuf,
    pub(super) step: u64,
}

/// When to restart, and how long to wait for what.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How often all workers may be restarted without progress (a new snapshot) between.
    pub max_restarts: u32,
    /// Time before the second restart without progress; the first comes at once, and each further one waits twice as
    /// long as the one before, at most a minute.
    pub backoff: Duration,
    /// Time between asking workers to stop and killing them.
    pub grace: Duration,
    /// Time without a sign of progress after which a job is stalled. `None`: 10 minutes for workers that send events,
    /// never for others. Zero: never.
    pub stall_timeout: Option<Duration>,
    /// Whether a stalled job is restarted.
    pub restart_on_stall: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_restarts: 3,
            backoff: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            stall_timeout: None,
            restart_on_stall: false,
        }
    }
}

/// How often to look whether workers that should have ended are still paused in a debugger.
const PAUSE_CHECK: Duration = Duration::from_millis(200);
/// How long a job whose workers send events may go without one.
const STALL_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest time between two attempts.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

pub(super) struct Dispatcher {
    rules: Rules,
    attempt: u32,
    /// Restarts since the last progress.
    used: u32,
    ranks: Vec<Rank>,
    newest: Option<Known>,
    state: State,
    /// The failure of the attempt before, if there was no progress since.
    previous: Option<Failure>,
    /// A worker of this attempt has ended as [`PREEMPTED`].
    preempted: bool,
    /// The stall in progress was told.
    stalled: bool,
    /// A node is gone, without which there is no further attempt.
    node_is_lost: bool,
}

struct Rank {
    alive: bool,
    step: Option<u64>,
    /// It has sent an event.
    speaks: bool,
    /// Its last sign of progress.
    sign: Instant,
}

enum State {
    Running,
    Stopping {
        reason: Reason,
        /// When to kill those that are still there; `None` once that is done.
        deadline: Option<Instant>,
    },
    /// All workers are gone, and will be started at this time.
    Waiting(Instant),
}

enum Reason {
    Failure(Failure),
    Signal(i32),
    NodeLost(String),
}

impl Dispatcher {
    pub(super) fn new(nproc: usize, rules: Rules, now: Instant) -> Self {
        let ranks = (0..nproc).map(|_| Rank { alive: true, step: None, speaks: false, sign: now }).collect();
        Self {
            rules,
            attempt: 0,
            used: 0,
            ranks,
            newest: None,
            state: State::Running,
            previous: None,
            preempted: false,
            stalled: false,
            node_is_lost: false,
        }
    }

    /// For a node that has lost the one that decides: what is left here ends.
    pub(super) fn cut_off(
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

    pub(super) fn newest_snapshot(&self) -> Option<&Known> {
        self.newest.as_ref()
    }

    /// The last step that a rank has told of.
    pub(super) fn step_of(&self, rank: usize) -> Option<u64> {
        self.ranks[rank].step
    }

    /// When to call again with [`Input::Tick`] at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Running => self.stall_deadline(),
            State::Stopping { deadline, .. } => *deadline,
            State::Waiting(until) => Some(*until),
        }
    }

    pub(super) fn handle(&mut self, input: Input, now: Instant) -> Vec<Action> {
        match input {
            Input::Exited { rank, pid, exit, message } => self.exited(rank, pid, exit, message, now),
            Input::Event { rank, event } => {
                self.note(rank, event, now);
                vec![]
            }
            Input::Output { rank } => {
                let rank = &mut self.ranks[rank];
                if !rank.speaks {
                    rank.sign = now;
                }
                vec![]
            }
            Input::Signal(signal) => self.signalled(signal, now),
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
                if let State::Stopping { deadline, .. } = &mut self.state {
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
        match &mut self.state {
            State::Running => {
                self.stalled = true;
                let idle = now.duration_since(self.quietest().map_or(now, |rank| rank.sign));
                vec![Action::Trace { idle }]
            }
            State::Stopping { reason, deadline } => {
                *deadline = None;
                vec![match reason {
                    Reason::Failure(_) => Action::KillUnpaused,
                    Reason::Signal(_) | Reason::NodeLost(_) => Action::Signal(SIGKILL),
                }]
            }
            State::Waiting(_) => vec![self.start(now)],
        }
    }

    /// The rank that is watched for stalls and has been quiet longest.
    fn quietest(&self) -> Option<&Rank> {
        let explicit = self.rules.stall_timeout.is_some();
        self.ranks.iter().filter(|rank| rank.alive && (explicit || rank.speaks)).min_by_key(|rank| rank.sign)
    }

    fn stall_deadline(&self) -> Option<Instant> {
        let timeout = self.rules.stall_timeout.unwrap_or(STALL_TIMEOUT);
        if self.stalled || timeout.is_zero() {
            return None;
        }
        Some(self.quietest()?.sign + timeout)
    }

    fn exited(&mut self, rank: usize, pid: u32, exit: Exit, message: Option<String>, now: Instant) -> Vec<Action> {
        self.ranks[rank].alive = false;
        let last = !self.ranks.iter().any(|rank| rank.alive);
        self.preempted |= exit == PREEMPTED;
        match &mut self.state {
            State::Stopping { reason: Reason::Failure(failure), .. } if failure.rank == rank => {
                // A rank that was ended because it held the others up.
                failure.exit = exit;
                failure.message = message;
            }
            State::Stopping { reason: Reason::Failure(failure), .. } => failure.consequences.push((rank, exit)),
            State::Stopping { .. } | State::Waiting(_) => {}
            State::Running if exit == Exit::Code(0) || exit == PREEMPTED => {}
            State::Running => {
                let failure = Failure { exit, message, ..self.failure(rank, pid) };
                let told = Action::Failed(failure.clone());
                self.state =
                    State::Stopping { reason: Reason::Failure(failure), deadline: Some(now + self.rules.grace) };
                if !last {
                    return vec![Action::Signal(SIGTERM), told];
                }
            }
        }
        if last { self.all_gone(now) } else { vec![] }
    }

    fn failure(&self, rank: usize, pid: u32) -> Failure {
        Failure {
            rank,
            pid,
            exit: Exit::Signal(SIGKILL),
            step: self.ranks[rank].step,
            message: None,
            attempt: self.attempt,
            stalled: None,
            consequences: vec![],
        }
    }

    fn all_gone(&mut self, now: Instant) -> Vec<Action> {
        let verdict = match std::mem::replace(&mut self.state, State::Running) {
            State::Stopping { reason: Reason::Failure(failure), .. } => match self.no_restart(&failure) {
                Some(why) => Verdict::Failed(failure, why),
                None => return self.restart(failure, now),
            },
            State::Stopping { reason: Reason::NodeLost(why), .. } => Verdict::NodeLost(why),
            _ if self.preempted => Verdict::Preempted { snapshot: self.newest.take().map(|known| known.snapshot) },
            State::Stopping { reason: Reason::Signal(signal), .. } => Verdict::Stopped(signal),
            State::Running | State::Waiting(_) => Verdict::Done { restarts: self.attempt },
        };
        vec![Action::Finish(verdict)]
    }

    fn no_restart(&self, failure: &Failure) -> Option<NoRestart> {
        if self.node_is_lost {
            Some(NoRestart::NodeLost)
        } else if self.rules.max_restarts == 0 {
            Some(NoRestart::Never)
        } else if self.previous.as_ref().is_some_and(|previous| failure.is_again(previous)) {
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
        self.previous = Some(failure.clone());
        let announced = Action::Announce { after: failure, attempt: self.attempt, delay };
        if delay.is_zero() {
            return vec![announced, self.start(now)];
        }
        self.state = State::Waiting(now + delay);
        vec![announced]
    }

    fn start(&mut self, now: Instant) -> Action {
        self.state = State::Running;
        self.preempted = false;
        self.stalled = false;
        for rank in &mut self.ranks {
            *rank = Rank { alive: true, step: None, speaks: false, sign: now };
        }
        Action::Start { attempt: self.attempt }
    }

    /// The first signal goes on to the workers, so that they can end well; the second kills them. SIGUSR1 and SIGUSR2 go
    /// on, too, and what comes of it is theirs to say.
    fn signalled(&mut self, signal: i32, now: Instant) -> Vec<Action> {
        match &mut self.state {
            State::Running if is_for_workers_alone(signal) => vec![Action::Signal(signal)],
            _ if is_for_workers_alone(signal) => vec![],
            State::Waiting(_) => vec![Action::Finish(Verdict::Stopped(signal))],
            State::Stopping { reason: Reason::Signal(_), deadline } => {
                *deadline = None;
                vec![Action::Signal(SIGKILL)]
            }
            _ => {
                let deadline = Some(now + self.rules.grace);
                self.state = State::Stopping { reason: Reason::Signal(signal), deadline };
                vec![Action::Signal(signal)]
            }
        }
    }

    fn orphaned(&mut self) -> Vec<Action> {
        if let State::Waiting(_) = self.state {
            return vec![Action::Finish(Verdict::Stopped(SIGKILL))];
        }
        self.state = State::Stopping { reason: Reason::Signal(SIGKILL), deadline: None };
        vec![Action::Signal(SIGKILL)]
    }

    /// What is left of the job ends; there is nobody to start the missing ranks again.
    fn node_lost(&mut self, ranks: Range<usize>, why: String, now: Instant) -> Vec<Action> {
        self.node_is_lost = true;
        for rank in ranks {
            self.ranks[rank].alive = false;
        }
        let others_live = self.ranks.iter().any(|rank| rank.alive);
        // What has begun to end goes on ending, for the reason that it has.
        if matches!(self.state, State::Running | State::Waiting(_)) {
            let deadline = Some(now + self.rules.grace);
            self.state = State::Stopping { reason: Reason::NodeLost(why), deadline };
            return if others_live { vec![Action::Signal(SIGTERM)] } else { self.all_gone(now) };
        }
        if others_live { vec![] } else { self.all_gone(now) }
    }

    fn traced(&mut self, rank: usize, pid: u32, now: Instant) -> Vec<Action> {
        let stalled = matches!(self.state, State::Running) && self.stalled && self.ranks[rank].alive;
        if !self.rules.restart_on_stall || !stalled {
            return vec![];
        }
        let idle = now.duration_since(self.ranks[rank].sign);
        let failure = Failure { stalled: Some(idle), ..self.failure(rank, pid) };
        self.state = State::Stopping { reason: Reason::Failure(failure), deadline: Some(now + self.rules.grace) };
        vec![Action::Signal(SIGTERM)]
    }

    fn note(&mut self, rank: usize, event: Event, now: Instant) {
        self.ranks[rank].speaks = true;
        self.ranks[rank].sign = now;
        self.stalled = false;
        match event {
            Event::Step { step, .. } => self.ranks[rank].step = Some(step),
            Event::SnapshotSaved { snapshot, step, .. } => {
                if self.newest.as_ref().is_none_or(|newest| newest.step < step) {
                    // Real progress: what went wrong before it is past.
                    self.used = 0;
                    self.previous = None;
                }
                self.newest = Some(Known { snapshot, step });
            }
            Event::Resumed { snapshot, step, .. } => self.newest = Some(Known { snapshot, step }),
            _ => {}
        }
    }
}

/// Signals that mean something to workers, and nothing to a job.
pub(super) fn is_for_workers_alone(signal: i32) -> bool {
    matches!(signal, SIGUSR1 | SIGUSR2)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Job {
        dispatcher: Dispatcher,
        now: Instant,
    }

    impl Job {
        fn new(nproc: usize, max_restarts: u32) -> Self {
            Self::with(nproc, Rules { max_restarts, ..Rules::default() })
        }

        fn with(nproc: usize, rules: Rules) -> Self {
            let now = Instant::now();
            Self { dispatcher: Dispatcher::new(nproc, rules, now), now }
        }

        fn exit(&mut self, rank: usize, exit: Exit) -> Vec<Action> {
            self.says(rank, exit, None)
        }

        fn says(&mut self, rank: usize, exit: Exit, message: Option<&str>) -> Vec<Action> {
            let message = message.map(str::to_owned);
            self.dispatcher.handle(Input::Exited { rank, pid: 100 + rank as u32, exit, message }, self.now)
        }

        fn event(&mut self, rank: usize, event: Event) {
            self.dispatcher.handle(Input::Event { rank, event }, self.now);
        }

        fn step(&mut self, rank: usize, step: u64) {
            let step = serde_json::json!({"event": "step", "epoch": 0, "step": step});
            self.event(rank, serde_json::from_value(step).unwrap());
        }

        fn saved(&mut self, step: u64) {
            self.event(
                0,
                Event::SnapshotSaved {
                    snapshot: "snapshots/step".into(),
                    epoch: 0,
                    step,
                    metric: None,
                    lower_is_better: None,
                },
            );
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
    fn a_lost_node_ends_what_is_left_of_the_job() {
        let lost = |job: &mut Job| {
            job.dispatcher.handle(Input::NodeLost { ranks: 2..4, why: "node 1 was lost".into() }, job.now)
        };
        let mut job = Job::new(4, 3);
        assert_eq!(lost(&mut job), [Action::Signal(SIGTERM)]);
        // Those that do not listen are killed.
        assert_eq!(job.after(10), [Action::Signal(SIGKILL)]);
        assert_eq!(job.exit(0, Exit::Signal(SIGKILL)), []);
        let verdict = Verdict::NodeLost("node 1 was lost".into());
        assert_eq!(job.exit(1, Exit::Signal(SIGKILL)), [Action::Finish(verdict)]);

        // A failure before it stays the cause, and is the last.
        let mut job = Job::new(4, 3);
        job.exit(3, Exit::Code(5));
        assert_eq!(lost(&mut job), []);
        job.exit(0, Exit::Signal(SIGTERM));
        let actions = job.exit(1, Exit::Signal(SIGTERM));
        assert!(
            matches!(&actions[..], [Action::Finish(Verdict::Failed(Failure { rank: 3, .. }, NoRestart::NodeLost))]),
            "{actions:?}"
        );

        // A node without the one that decides ends what it has.
        let (_, actions) = Dispatcher::cut_off(4, Rules::default(), &[2, 3], "node 0 was lost".into(), Instant::now());
        assert_eq!(actions, [Action::Signal(SIGTERM)]);
        let (_, actions) = Dispatcher::cut_off(4, Rules::default(), &[], "node 0 was lost".into(), Instant::now());
        assert_eq!(actions, [Action::Finish(Verdict::NodeLost("node 0 was lost".into()))]);
    }

    #[test]
    fn the_first_failure_is_the_cause_and_stops_the_others() {
        let mut job = Job::new(3, 0);
        job.step(1, 12);
        let actions = job.exit(1, Exit::Signal(SIGKILL));
        assert!(
            matches!(&actions[..], [Action::Signal(SIGTERM), Action::Failed(Failure { rank: 1, .. })]),
            "{actions:?}"
        );
        assert_eq!(job.exit(0, Exit::Code(1)), []);
        let consequences = vec![(0, Exit::Code(1)), (2, Exit::Signal(SIGTERM))];
        let failure = Failure {
            rank: 1,
            pid: 101,
            exit: Exit::Signal(SIGKILL),
            step: Some(12),
            message: None,
            attempt: 0,
            stalled: None,
            consequences,
        };
        let verdict = Verdict::Failed(failure, NoRestart::Never);
        assert_eq!(job.exit(2, Exit::Signal(SIGTERM)), [Action::Finish(verdict)]);
    }

    #[test]
    fn all_restart_as_often_as_they_may() {
        let mut job = Job::new(2, 1);
        job.exit(0, Exit::Code(3));
        let actions = job.exit(1, Exit::Signal(SIGTERM));
        assert!(matches!(actions[..], [Action::Announce { attempt: 1, .. }, Action::Start { attempt: 1 }]));
        job.exit(0, Exit::Code(3));
        let actions = job.exit(1, Exit::Signal(SIGTERM));
        assert!(matches!(actions[..], [Action::Finish(Verdict::Failed(_, NoRestart::UsedUp(1)))]));
    }

    /// All of a job of one rank: fails, and gives the time until the restart, or why there is none.
    fn fail(job: &mut Job, message: &str) -> Result<Duration, NoRestart> {
        let actions = job.says(0, Exit::Code(1), Some(message));
        match &actions[..] {
            [Action::Announce { delay, .. }, Action::Start { .. }] => Ok(*delay),
            [Action::Announce { delay, .. }] => {
                let delay = *delay;
                assert_eq!(job.dispatcher.deadline(), Some(job.now + delay));
                job.now += delay;
                let started = job.dispatcher.handle(Input::Tick, job.now);
                assert!(matches!(started[..], [Action::Start { .. }]));
                Ok(delay)
            }
            [Action::Finish(Verdict::Failed(_, why))] => Err(*why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_restart_comes_at_once_and_the_next_ones_later_and_later() {
        let mut job = Job::new(1, 4);
        let delays: Vec<_> = (0..5).map(|i| fail(&mut job, &i.to_string())).collect();
        let seconds = Duration::from_secs;
        assert_eq!(delays, [Ok(seconds(0)), Ok(seconds(1)), Ok(seconds(2)), Ok(seconds(4)), Err(NoRestart::UsedUp(4))]);
    }

    #[test]
    fn progress_refills_the_count_and_ends_the_back_off() {
        let mut job = Job::new(1, 2);
        assert_eq!(fail(&mut job, "a"), Ok(Duration::ZERO));
        assert_eq!(fail(&mut job, "b"), Ok(Duration::from_secs(1)));
        job.saved(10);
        assert_eq!(fail(&mut job, "c"), Ok(Duration::ZERO));
        // The same snapshot once more is no progress.
        job.saved(10);
        assert_eq!(fail(&mut job, "d"), Ok(Duration::from_secs(1)));
        assert_eq!(fail(&mut job, "e"), Err(NoRestart::UsedUp(2)));
    }

    #[test]
    fn the_same_failure_at_the_same_step_is_not_tried_a_third_time() {
        let mut job = Job::new(1, 100);
        job.step(0, 7);
        assert_eq!(fail(&mut job, "nan"), Ok(Duration::ZERO));
        job.step(0, 8);
        assert!(fail(&mut job, "nan").is_ok(), "another step is another failure");
        job.step(0, 8);
        assert!(fail(&mut job, "connection lost").is_ok(), "another message is another failure");
        job.step(0, 8);
        assert_eq!(fail(&mut job, "connection lost"), Err(NoRestart::Again));
    }

    #[test]
    fn what_says_nothing_and_what_comes_from_outside_is_never_the_same() {
        let mut job = Job::new(1, 3);
        for _ in 0..3 {
            assert!(matches!(job.exit(0, Exit::Code(1))[0], Action::Announce { .. }));
            job.now += Duration::from_secs(60);
            job.dispatcher.handle(Input::Tick, job.now);
        }
        let mut job = Job::new(1, 3);
        for _ in 0..3 {
            job.step(0, 5);
            assert!(matches!(job.exit(0, Exit::Signal(SIGKILL))[0], Action::Announce { .. }));
            job.now += Duration::from_secs(60);
            job.dispatcher.handle(Input::Tick, job.now);
        }
    }

    #[test]
    fn a_signal_while_waiting_for_a_restart_ends_the_job() {
        let mut job = Job::new(1, 3);
        fail(&mut job, "a").unwrap();
        assert!(matches!(job.says(0, Exit::Code(1), Some("b"))[..], [Action::Announce { .. }]));
        assert_eq!(job.signal(SIGUSR1), []);
        assert_eq!(job.signal(SIGINT), [Action::Finish(Verdict::Stopped(SIGINT))]);
    }

    #[test]
    fn without_the_guard_everything_ends_at_once() {
        let mut job = Job::new(2, 3);
        assert_eq!(job.dispatcher.handle(Input::Orphaned, job.now), [Action::Signal(SIGKILL)]);
        job.exit(0, Exit::Signal(SIGKILL));
        assert_eq!(job.exit(1, Exit::Signal(SIGKILL)), [Action::Finish(Verdict::Stopped(SIGKILL))]);
    }

    #[test]
    fn a_rank_without_progress_is_a_stall_once_until_it_goes_on() {
        let mut job = Job::new(2, 3);
        assert_eq!(job.after(3600), [], "a program without events may be as quiet as it likes");
        job.step(0, 1);
        job.step(1, 1);
        assert_eq!(job.after(599), []);
        job.step(0, 2);
        assert_eq!(job.after(1), [Action::Trace { idle: Duration::from_secs(600) }]);
        assert_eq!(job.after(600), []);
        assert_eq!(job.dispatcher.handle(Input::Traced { rank: 1, pid: 101 }, job.now), []);
        job.step(1, 2);
        assert!(matches!(job.after(600)[..], [Action::Trace { .. }]));
    }

    #[test]
    fn a_stalled_job_is_restarted_by_flag_and_output_counts_without_events() {
        let stall_timeout = Some(Duration::from_secs(5));
        let mut job = Job::with(2, Rules { stall_timeout, restart_on_stall: true, ..Rules::default() });
        assert_eq!(job.after(4), []);
        job.dispatcher.handle(Input::Output { rank: 0 }, job.now);
        assert_eq!(job.after(1), [Action::Trace { idle: Duration::from_secs(5) }]);
        let traced = Input::Traced { rank: 1, pid: 101 };
        assert_eq!(job.dispatcher.handle(traced, job.now), [Action::Signal(SIGTERM)]);
        job.exit(0, Exit::Signal(SIGTERM));
        let actions = job.exit(1, Exit::Signal(SIGTERM));
        let [Action::Announce { after, .. }, Action::Start { .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!((after.rank, after.stalled, after.exit), (1, Some(Duration::from_secs(5)), Exit::Signal(SIGTERM)));
    }

    #[test]
    fn who_is_not_watched_does_not_stall() {
        let mut job = Job::with(1, Rules { stall_timeout: Some(Duration::ZERO), ..Rules::default() });
        job.step(0, 1);
        assert_eq!(job.dispatcher.deadline(), None);
    }

    #[test]
    fn a_rank_that_fails_after_the_others_are_done_fails_the_job() {
        let mut job = Job::new(2, 0);
        job.exit(0, Exit::Code(0));
        assert!(matches!(job.exit(1, Exit::Code(1))[..], [Action::Finish(Verdict::Failed(..))]));
    }

    #[test]
    fn who_does_not_stop_in_time_is_killed_once() {
        let mut job = Job::new(2, 0);
        job.exit(0, Exit::Code(1));
        assert_eq!(job.after(9), []);
        assert_eq!(job.after(1), [Action::KillUnpaused]);
        assert_eq!(job.dispatcher.deadline(), None);
        assert_eq!(job.after(60), []);
    }

    #[test]
    fn who_is_paused_in_a_debugger_is_waited_for_and_then_has_time_to_end() {
        let mut job = Job::new(2, 0);
        job.exit(0, Exit::Code(1));
        for _ in 0..5 {
            assert_eq!(job.after(10), [Action::KillUnpaused]);
            assert_eq!(job.dispatcher.handle(Input::Paused, job.now), []);
        }
        assert_eq!(job.after(1), [Action::KillUnpaused]);
        assert_eq!(job.dispatcher.handle(Input::Resumed, job.now), []);
        assert_eq!(job.after(9), []);
        assert_eq!(job.after(1), [Action::KillUnpaused]);
        // Told to stop, nobody is waited for.
        let mut job = Job::new(2, 0);
        job.signal(SIGTERM);
        assert_eq!(job.after(10), [Action::Signal(SIGKILL)]);
    }

    #[test]
    fn a_job_that_is_looked_at_does_not_stall() {
        let rules = Rules { stall_timeout: Some(Duration::from_secs(5)), ..Rules::default() };
        let mut job = Job::with(2, rules);
        assert!(matches!(job.after(5)[..], [Action::Trace { .. }]));
        assert_eq!(job.dispatcher.handle(Input::Debugged, job.now), []);
        assert_eq!(job.after(4), []);
        assert!(matches!(job.after(1)[..], [Action::Trace { .. }]));
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
            let saved = Event::SnapshotSaved {
                snapshot: snapshot.clone(),
                epoch: 0,
                step: 7,
                metric: None,
                lower_is_better: None,
            };
            job.event(0, saved);
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
