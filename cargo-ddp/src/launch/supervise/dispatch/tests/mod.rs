//! The state machine, fed with what happens.

mod restarts;
mod signals;

use std::path::PathBuf;

use libc::{SIGINT, SIGQUIT, SIGUSR1};

use super::*;
use crate::launch::outcome::{NoRestart, Verdict};

struct Simulation {
    dispatcher: Dispatcher,
    now: Instant,
}

impl Simulation {
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
        self.prints(rank, exit, message, "")
    }

    fn prints(&mut self, rank: usize, exit: Exit, message: Option<&str>, stderr: &str) -> Vec<Action> {
        let (message, stderr) = (message.map(str::to_owned), comparable(stderr));
        self.dispatcher.handle(Input::Exited { rank, pid: 100 + rank as u32, exit, message, stderr }, self.now)
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
fn job_is_done_when_all_ranks_are() {
    let mut job = Simulation::new(2, 0);
    assert_eq!(job.exit(1, Exit::Code(0)), []);
    assert_eq!(job.exit(0, Exit::Code(0)), [Action::Finish(Verdict::Done { restarts: 0 })]);
}

#[test]
fn node_that_is_lost_ends_the_job() {
    let lost = |job: &mut Simulation| {
        job.dispatcher.handle(Input::NodeLost { ranks: 2..4, why: "node 1 was lost".into() }, job.now)
    };
    let mut job = Simulation::new(4, 3);
    assert_eq!(lost(&mut job), [Action::Signal(SIGTERM)]);
    // Those that do not listen are killed.
    assert_eq!(job.after(10), [Action::Signal(SIGKILL)]);
    assert_eq!(job.exit(0, Exit::Signal(SIGKILL)), []);
    let verdict = Verdict::NodeLost("node 1 was lost".into());
    assert_eq!(job.exit(1, Exit::Signal(SIGKILL)), [Action::Finish(verdict)]);

    // A failure before it stays the cause, and is the last.
    let mut job = Simulation::new(4, 3);
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
fn first_failure_is_the_cause_and_stops_the_others() {
    let mut job = Simulation::new(3, 0);
    job.step(1, 12);
    let actions = job.exit(1, Exit::Signal(SIGKILL));
    assert!(matches!(&actions[..], [Action::Signal(SIGTERM), Action::Failed(Failure { rank: 1, .. })]), "{actions:?}");
    assert_eq!(job.exit(0, Exit::Code(1)), []);
    let consequences = vec![(0, Exit::Code(1)), (2, Exit::Signal(SIGTERM))];
    let exit = Exit::Signal(SIGKILL);
    let failure = Failure { rank: 1, pid: 101, exit, step: Some(12), consequences, ..Failure::example() };
    let verdict = Verdict::Failed(failure, NoRestart::Never);
    assert_eq!(job.exit(2, Exit::Signal(SIGTERM)), [Action::Finish(verdict)]);
}

const GONE: &str = "backward: [pair.cc:553] Connection closed by peer [127.0.0.1]:1. This is typically caused by …";

/// The rank that is said to have failed, and the others, when rank 1 of 3 ends so, and rank 2 some milliseconds later.
fn cause(first: (Exit, Option<&str>), later: (Exit, Option<&str>), milliseconds: u64) -> (usize, Vec<usize>) {
    let mut job = Simulation::new(3, 0);
    job.says(1, first.0, first.1);
    job.now += Duration::from_millis(milliseconds);
    job.says(2, later.0, later.1);
    match &job.exit(0, Exit::Signal(SIGTERM))[..] {
        [Action::Finish(Verdict::Failed(failure, _))] => {
            (failure.rank, failure.consequences.iter().map(|(rank, _)| *rank).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn rank_that_misses_a_peer_is_not_the_cause_when_one_died_by_itself() {
    let missing = (Exit::Code(1), Some(GONE));
    assert_eq!(cause(missing, (Exit::Signal(SIGKILL), None), 3), (2, vec![1, 0]));
    assert_eq!(cause(missing, (Exit::Code(101), Some("panic: told to")), 3), (2, vec![1, 0]));
    let in_our_words = Some("lost the connection to a peer during all_reduce; the peer exited first");
    assert_eq!(cause((Exit::Code(1), in_our_words), (Exit::Signal(SIGKILL), None), 3), (2, vec![1, 0]));
    // By its own death it could not be missed.
    assert_eq!(cause(missing, (Exit::Signal(SIGKILL), None), 3000), (1, vec![2, 0]));
    // It misses a peer as well, or does as it was asked to.
    assert_eq!(cause(missing, missing, 3), (1, vec![2, 0]));
    for exit in [Exit::Code(0), Exit::PREEMPTED, Exit::Signal(SIGTERM), Exit::Code(143)] {
        assert_eq!(cause(missing, (exit, None), 3), (1, vec![2, 0]), "{exit:?}");
    }
    let own = (Exit::Code(1), Some("the loss is not finite"));
    assert_eq!(cause(own, (Exit::Signal(SIGKILL), None), 3), (1, vec![2, 0]));
}

#[test]
fn rank_that_times_out_or_is_aborted_by_nccl_is_not_the_cause_when_one_died_by_itself() {
    let overdue =
        "a collective after step 71 timed out after 20 s: a rank did not take part in it, or ranks wait for each other";
    let gloo = "all_reduce timed out: [unbound_buffer.cc:81] Timed out waiting 1000ms for recv operation to complete";
    let broken = "NCCL lost the connection to another rank after step 7: that rank ended, or the network failed";
    for message in [overdue, gloo, broken] {
        assert_eq!(
            cause((Exit::Code(1), Some(message)), (Exit::Signal(SIGKILL), None), 3),
            (2, vec![1, 0]),
            "{message}"
        );
    }
    // NCCL's watchdog leaves no error file, but its last lines.
    let watchdog = "terminate called after throwing an instance of 'c10::DistBackendError'\n[Rank #] To avoid data inconsistency, we \
                    are taking the entire process down.";
    let cause_after = |stderr: &str| {
        let mut job = Simulation::new(2, 0);
        job.prints(0, Exit::Signal(6), None, stderr);
        match &job.says(1, Exit::Code(1), Some("the loss is not finite"))[..] {
            [Action::Finish(Verdict::Failed(failure, _))] => failure.rank,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(cause_after(watchdog), 1);
    assert_eq!(cause_after("terminate called"), 0);
}

#[test]
fn ranks_that_outlive_a_failure_get_sigterm_twice() {
    let mut job = Simulation::new(3, 0);
    (0..3).for_each(|rank| job.step(rank, 5));
    job.exit(1, Exit::Code(1));
    assert_eq!(job.after(1), []);
    assert_eq!(job.after(1), [Action::Signal(SIGTERM)]);
    assert_eq!(job.after(7), []);
    assert_eq!(job.after(1), [Action::KillUnpaused]);
    // A program that sends no events may take a second signal for something else.
    let mut job = Simulation::new(3, 0);
    (0..2).for_each(|rank| job.step(rank, 5));
    job.exit(1, Exit::Code(1));
    assert_eq!(job.after(9), []);
    assert_eq!(job.after(1), [Action::KillUnpaused]);
    // Ranks that are asked to save and leave have their time.
    let mut job = Simulation::new(3, 0);
    (0..3).for_each(|rank| job.step(rank, 5));
    assert_eq!(job.signal(SIGTERM), [Action::Signal(SIGTERM)]);
    assert_eq!(job.after(9), []);
}

#[test]
fn rank_that_the_launcher_killed_is_not_the_cause() {
    let mut job = Simulation::with(2, Rules { grace: Duration::ZERO, max_restarts: 0, ..Rules::default() });
    job.says(0, Exit::Code(1), Some(GONE));
    assert_eq!(job.after(0), [Action::KillUnpaused]);
    let actions = job.exit(1, Exit::Signal(SIGKILL));
    assert!(matches!(&actions[..], [Action::Finish(Verdict::Failed(Failure { rank: 0, .. }, _))]), "{actions:?}");
}

#[test]
fn stall_is_reported_once_until_there_is_progress() {
    let mut job = Simulation::new(2, 3);
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
fn stall_restarts_the_job_by_flag_and_output_counts_without_events() {
    let stall_timeout = Some(Duration::from_secs(5));
    let mut job = Simulation::with(2, Rules { stall_timeout, restart_on_stall: true, ..Rules::default() });
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

// The worker's own 0 was the launcher's, too.
#[test]
fn job_that_failed_never_ends_with_0() {
    let stall_timeout = Some(Duration::from_secs(5));
    let rules = Rules { max_restarts: 0, stall_timeout, restart_on_stall: true, ..Rules::default() };
    let mut job = Simulation::with(1, rules);
    assert_eq!(job.after(5), [Action::Trace { idle: Duration::from_secs(5) }]);
    assert_eq!(job.dispatcher.handle(Input::Traced { rank: 0, pid: 100 }, job.now), [Action::Signal(SIGTERM)]);
    let actions = job.exit(0, Exit::Code(0));
    let [Action::Finish(Verdict::Failed(failure, why))] = &actions[..] else { panic!("{actions:?}") };
    for (code, expected) in [(0, 1), (256, 1), (-1, 1), (3, 3), (255, 255)] {
        let failure = Failure { exit: Exit::Code(code), ..failure.clone() };
        assert_eq!(Verdict::Failed(failure, *why).exit_code(), expected, "{code}");
    }
}

#[test]
fn stall_needs_events_or_the_flag() {
    let mut job = Simulation::with(1, Rules { stall_timeout: Some(Duration::ZERO), ..Rules::default() });
    job.step(0, 1);
    assert_eq!(job.dispatcher.deadline(), None);
}

#[test]
fn rank_that_fails_after_the_others_are_done_fails_the_job() {
    let mut job = Simulation::new(2, 0);
    job.exit(0, Exit::Code(0));
    assert!(matches!(job.exit(1, Exit::Code(1))[..], [Action::Finish(Verdict::Failed(..))]));
}

#[test]
fn rank_that_does_not_stop_in_time_is_killed_once() {
    let mut job = Simulation::new(2, 0);
    job.exit(0, Exit::Code(1));
    assert_eq!(job.after(9), []);
    assert_eq!(job.after(1), [Action::KillUnpaused]);
    assert_eq!(job.dispatcher.deadline(), None);
    assert_eq!(job.after(60), []);
}

#[test]
fn rank_that_is_paused_in_a_debugger_has_time_to_end_afterwards() {
    let mut job = Simulation::new(2, 0);
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
    let mut job = Simulation::new(2, 0);
    job.signal(SIGTERM);
    assert_eq!(job.after(10), [Action::Signal(SIGKILL)]);
}

#[test]
fn job_in_a_debugger_does_not_stall() {
    let rules = Rules { stall_timeout: Some(Duration::from_secs(5)), ..Rules::default() };
    let mut job = Simulation::with(2, rules);
    assert!(matches!(job.after(5)[..], [Action::Trace { .. }]));
    assert_eq!(job.dispatcher.handle(Input::Debugged, job.now), []);
    assert_eq!(job.after(4), []);
    assert!(matches!(job.after(1)[..], [Action::Trace { .. }]));
}

#[test]
fn exit_that_a_node_reports_again_is_ignored() {
    let mut job = Simulation::new(2, 3);
    job.exit(0, Exit::Code(3));
    assert_eq!(job.exit(0, Exit::Code(0)), []);
    assert!(matches!(job.exit(1, Exit::Signal(SIGTERM)).as_slice(), [Action::Announce { .. }, Action::Start { .. }]));
    // The second restart waits, and no worker runs meanwhile.
    job.exit(0, Exit::Code(4));
    assert!(matches!(job.exit(1, Exit::Signal(SIGTERM)).as_slice(), [Action::Announce { .. }]));
    for rank in [0, 1] {
        assert_eq!(job.exit(rank, Exit::Code(0)), []);
    }
    assert_eq!(job.after(1), [Action::Start { attempt: 2 }]);
}
