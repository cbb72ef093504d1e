use std::path::PathBuf;

use libc::{SIGINT, SIGQUIT, SIGUSR1};

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
    let mut job = Job::new(2, 0);
    assert_eq!(job.exit(1, Exit::Code(0)), []);
    assert_eq!(job.exit(0, Exit::Code(0)), [Action::Finish(Verdict::Done { restarts: 0 })]);
}

#[test]
fn node_that_is_lost_ends_the_job() {
    let lost =
        |job: &mut Job| job.dispatcher.handle(Input::NodeLost { ranks: 2..4, why: "node 1 was lost".into() }, job.now);
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
fn failure_that_comes_first_is_the_cause_and_stops_the_others() {
    let mut job = Job::new(3, 0);
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
    let mut job = Job::new(3, 0);
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
    let in_our_words = Some("lost the connection to a peer during all_reduce; that peer ended first");
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
    let overdue = "a collective after step 71 timed out after 20 s: a rank did not take part in it, or the ranks wait for each other";
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
        let mut job = Job::new(2, 0);
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
fn ranks_that_are_still_there_after_a_failure_are_asked_twice() {
    let mut job = Job::new(3, 0);
    (0..3).for_each(|rank| job.step(rank, 5));
    job.exit(1, Exit::Code(1));
    assert_eq!(job.after(1), []);
    assert_eq!(job.after(1), [Action::Signal(SIGTERM)]);
    assert_eq!(job.after(7), []);
    assert_eq!(job.after(1), [Action::KillUnpaused]);
    // A program that sends no events may take a second signal for something else.
    let mut job = Job::new(3, 0);
    (0..2).for_each(|rank| job.step(rank, 5));
    job.exit(1, Exit::Code(1));
    assert_eq!(job.after(9), []);
    assert_eq!(job.after(1), [Action::KillUnpaused]);
    // Ranks that are asked to save and leave have their time.
    let mut job = Job::new(3, 0);
    (0..3).for_each(|rank| job.step(rank, 5));
    assert_eq!(job.signal(SIGTERM), [Action::Signal(SIGTERM)]);
    assert_eq!(job.after(9), []);
}

#[test]
fn rank_that_the_launcher_killed_is_not_the_cause() {
    let mut job = Job::with(2, Rules { grace: Duration::ZERO, max_restarts: 0, ..Rules::default() });
    job.says(0, Exit::Code(1), Some(GONE));
    assert_eq!(job.after(0), [Action::KillUnpaused]);
    let actions = job.exit(1, Exit::Signal(SIGKILL));
    assert!(matches!(&actions[..], [Action::Finish(Verdict::Failed(Failure { rank: 0, .. }, _))]), "{actions:?}");
}

#[test]
fn restarts_are_limited() {
    let mut job = Job::new(2, 1);
    job.exit(0, Exit::Code(3));
    let actions = job.exit(1, Exit::Signal(SIGTERM));
    assert!(matches!(actions[..], [Action::Announce { attempt: 1, .. }, Action::Start { attempt: 1 }]));
    job.exit(0, Exit::Code(4));
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
fn restarts_are_immediate_first_and_then_back_off() {
    let mut job = Job::new(1, 4);
    let delays: Vec<_> = ["a", "b", "c", "d", "e"].map(|message| fail(&mut job, message)).into();
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
fn worker_that_saves_but_never_resumes_is_given_up() {
    let mut job = Job::new(1, 2);
    for (failure, delay) in ["a", "b"].iter().zip([0, 1]) {
        for step in [10, 20, 30] {
            job.saved(step);
        }
        assert_eq!(fail(&mut job, failure), Ok(Duration::from_secs(delay)));
    }
    // Nor is it progress if the newest snapshot was damaged.
    job.event(0, Event::Resumed { snapshot: "snapshots/step".into(), epoch: 0, step: 10 });
    job.saved(20);
    assert_eq!(fail(&mut job, "c"), Err(NoRestart::UsedUp(2)));
}

#[test]
fn failure_at_the_same_step_is_not_tried_a_third_time() {
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
fn failure_without_a_message_or_from_outside_is_never_a_repeat() {
    let mut job = Job::new(1, 3);
    for _ in 0..3 {
        job.now += STARTUP + Duration::from_secs(1);
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

/// What comes of a rank that ends so: a restart, or why there is none.
fn after(job: &mut Job, rank: usize, exit: Exit, stderr: &str) -> Result<(), NoRestart> {
    let mut actions = job.prints(rank, exit, None, stderr);
    for other in (0..job.dispatcher.ranks.len()).filter(|other| *other != rank) {
        actions = job.exit(other, Exit::Signal(SIGTERM));
    }
    match &actions[..] {
        [Action::Announce { .. }, ..] => {
            if actions.len() == 1 {
                job.now += LONGEST_BACKOFF;
                job.dispatcher.handle(Input::Tick, job.now);
            }
            Ok(())
        }
        [Action::Finish(Verdict::Failed(_, why))] => Err(*why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn usage_error_is_not_retried() {
    let usage = Exit::Code(2);
    for stderr in ["error: unexpected argument '--epoch' found", ""] {
        assert_eq!(after(&mut Job::new(2, 3), 1, usage, stderr), Err(NoRestart::Usage));
    }
    // Arguments that were fine are fine: something else ends with this code.
    let mut job = Job::new(1, 3);
    job.step(0, 1);
    assert_eq!(after(&mut job, 0, usage, "a"), Ok(()));
    assert_eq!(after(&mut job, 0, usage, "b"), Ok(()));
    // A program without events that ran for some time.
    let mut job = Job::new(1, 3);
    job.now += STARTUP + Duration::from_secs(1);
    assert_eq!(after(&mut job, 0, usage, "a"), Ok(()));
    assert_eq!(after(&mut Job::new(1, 0), 0, usage, "a"), Err(NoRestart::Never));
}

#[test]
fn failures_are_compared_without_pids_ports_and_times() {
    for (first, second) in [
        ("can't bind 127.0.0.1:29500 (pid 17)", "can't bind 127.0.0.1:4711 (pid 9000)"),
        ("job f81d4fae-7dec-11d0-a765-00a0c91e6bf6: no", "job aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee: no"),
        ("no object deadbe1f", "no object 0123cafe"),
        ("no /tmp/tmp.Xa0pQrsTuV", "no /tmp/tmp.qWErtyZ123"),
        ("no /scratch/tmpab12cd_x/model", "no /scratch/tmp_zzzqqq9/model"),
        ("no '/scratch/.tmpAbCdEf'", "no '/scratch/.tmpxYzAbC'"),
        ("no /var/tmp/job-abc.txt", "no /var/tmp/job-xyz.txt"),
        ("sm_90a7, über 3 µs", "sm_8, über 12 µs"),
    ] {
        assert_eq!(comparable(first), comparable(second));
        assert!(comparable(first).contains('#'));
    }
    for (first, second) in [
        ("no module named torch", "no module named numpy"),
        ("no /data/train", "no /data/test"),
        ("no /tmp/a/model", "no /tmp/a/data"),
        ("facade", "decade"),
        ("", "error"),
    ] {
        assert_ne!(comparable(first), comparable(second));
    }
    for text in ["the effaced facade", "/tmp/", "tmp/model", "über"] {
        assert_eq!(comparable(text), text);
    }
}

#[test]
fn startup_failure_is_retried_once_whatever_its_message() {
    // Nothing on stderr.
    for exit in [Exit::Code(1), Exit::Signal(11), Exit::Code(139)] {
        let mut job = Job::new(2, 3);
        assert_eq!(after(&mut job, 0, exit, ""), Ok(()));
        assert_eq!(after(&mut job, 0, exit, ""), Err(NoRestart::Again), "{exit:?}");
    }
    for exit in [Exit::Signal(SIGKILL), Exit::Signal(SIGQUIT), Exit::Code(128 + SIGKILL), Exit::Signal(SIGUSR1)] {
        let mut job = Job::new(2, 3);
        for _ in 0..3 {
            assert_eq!(after(&mut job, 0, exit, ""), Ok(()), "{exit:?}");
        }
    }
    // A number in the error file.
    let mut job = Job::new(1, 3);
    assert!(fail(&mut job, "can't bind 127.0.0.1:29500").is_ok());
    assert_eq!(fail(&mut job, "can't bind 127.0.0.1:29501"), Err(NoRestart::Again));
}

#[test]
fn startup_failure_is_retried_once() {
    let failed = Exit::Code(101);
    let panic = |pid: u32| format!("thread 'main' ({pid}) panicked at src/main.rs:7:9:\nno file at 0x{pid:x}");
    let mut job = Job::new(2, 3);
    assert_eq!(after(&mut job, 0, failed, &panic(4711)), Ok(()));
    // Whichever rank is the first to fail.
    assert_eq!(after(&mut job, 1, failed, &panic(9_000_001)), Err(NoRestart::Again));

    let mut job = Job::new(1, 3);
    assert_eq!(after(&mut job, 0, failed, "connection refused"), Ok(()));
    assert_eq!(after(&mut job, 0, failed, "out of memory"), Ok(()));
    assert_eq!(after(&mut job, 0, Exit::Code(1), "out of memory"), Ok(()));
    assert_eq!(after(&mut job, 0, failed, "out of memory"), Err(NoRestart::UsedUp(3)));

    // After a step, only what a program says in its error file is compared.
    let mut job = Job::new(1, 3);
    for step in 0..3 {
        job.step(0, 10 - step);
        assert_eq!(after(&mut job, 0, failed, "interrupted system call"), Ok(()));
    }
}

#[test]
fn signal_while_waiting_for_a_restart_ends_the_job() {
    let mut job = Job::new(1, 3);
    fail(&mut job, "a").unwrap();
    assert!(matches!(job.says(0, Exit::Code(1), Some("b"))[..], [Action::Announce { .. }]));
    assert_eq!(job.signal(SIGUSR1), []);
    assert_eq!(job.signal(SIGINT), [Action::Finish(Verdict::Stopped(SIGINT))]);
}

#[test]
fn guard_that_is_gone_ends_everything_immediately() {
    let mut job = Job::new(2, 3);
    assert_eq!(job.dispatcher.handle(Input::Orphaned, job.now), [Action::Signal(SIGKILL)]);
    job.exit(0, Exit::Signal(SIGKILL));
    assert_eq!(job.exit(1, Exit::Signal(SIGKILL)), [Action::Finish(Verdict::Stopped(SIGKILL))]);
}

#[test]
fn stall_is_reported_once_until_there_is_progress() {
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
fn stall_restarts_the_job_by_flag_and_output_counts_without_events() {
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

// The worker's own 0 was the launcher's, too.
#[test]
fn job_that_failed_never_ends_with_0() {
    let stall_timeout = Some(Duration::from_secs(5));
    let rules = Rules { max_restarts: 0, stall_timeout, restart_on_stall: true, ..Rules::default() };
    let mut job = Job::with(1, rules);
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
    let mut job = Job::with(1, Rules { stall_timeout: Some(Duration::ZERO), ..Rules::default() });
    job.step(0, 1);
    assert_eq!(job.dispatcher.deadline(), None);
}

#[test]
fn rank_that_fails_after_the_others_are_done_fails_the_job() {
    let mut job = Job::new(2, 0);
    job.exit(0, Exit::Code(0));
    assert!(matches!(job.exit(1, Exit::Code(1))[..], [Action::Finish(Verdict::Failed(..))]));
}

#[test]
fn rank_that_does_not_stop_in_time_is_killed_once() {
    let mut job = Job::new(2, 0);
    job.exit(0, Exit::Code(1));
    assert_eq!(job.after(9), []);
    assert_eq!(job.after(1), [Action::KillUnpaused]);
    assert_eq!(job.dispatcher.deadline(), None);
    assert_eq!(job.after(60), []);
}

#[test]
fn rank_that_is_paused_in_a_debugger_has_time_to_end_afterwards() {
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
fn job_in_a_debugger_does_not_stall() {
    let rules = Rules { stall_timeout: Some(Duration::from_secs(5)), ..Rules::default() };
    let mut job = Job::with(2, rules);
    assert!(matches!(job.after(5)[..], [Action::Trace { .. }]));
    assert_eq!(job.dispatcher.handle(Input::Debugged, job.now), []);
    assert_eq!(job.after(4), []);
    assert!(matches!(job.after(1)[..], [Action::Trace { .. }]));
}

#[test]
fn signal_is_forwarded_to_the_workers_and_the_second_kills() {
    let mut job = Job::new(2, 3);
    assert_eq!(job.signal(SIGINT), [Action::Signal(SIGINT)]);
    assert_eq!(job.signal(SIGINT), [Action::Signal(SIGKILL)]);
    job.exit(0, Exit::Signal(SIGKILL));
    assert_eq!(job.exit(1, Exit::Signal(SIGKILL)), [Action::Finish(Verdict::Stopped(SIGINT))]);
}

#[test]
fn workers_that_save_and_exit_when_asked_did_not_fail() {
    for asked in [SIGTERM, SIGUSR1] {
        let mut job = Job::new(2, 3);
        let snapshot = PathBuf::from("snapshots/step-00000007");
        assert_eq!(job.signal(asked), [Action::Signal(asked)]);
        let saved =
            Event::SnapshotSaved { snapshot: snapshot.clone(), epoch: 0, step: 7, metric: None, lower_is_better: None };
        job.event(0, saved);
        assert_eq!(job.exit(1, Exit::PREEMPTED), []);
        let snapshot = Some(snapshot);
        assert_eq!(job.exit(0, Exit::PREEMPTED), [Action::Finish(Verdict::Preempted { snapshot })]);
    }
}

/// What a job of two ranks comes to that is asked to stop, and whose ranks then end in this way.
fn stopped(ends: [(usize, Exit, Option<&str>); 2]) -> Verdict {
    let mut job = Job::new(2, 3);
    job.step(0, 7);
    assert_eq!(job.signal(SIGTERM), [Action::Signal(SIGTERM)]);
    job.saved(7);
    let [(first, exit, message), last] = ends;
    assert_eq!(job.says(first, exit, message), []);
    match &mut job.says(last.0, last.1, last.2)[..] {
        [Action::Finish(verdict)] => verdict.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn error_after_a_request_to_stop_is_not_a_preemption() {
    let failed = Exit::Code(1);
    for ends in [
        [(1, failed, Some("disk full")), (0, Exit::PREEMPTED, None)],
        [(0, Exit::PREEMPTED, None), (1, failed, Some("disk full"))],
        [(0, Exit::PREEMPTED, None), (1, failed, None)],
        [(1, failed, Some("disk full")), (0, Exit::Signal(SIGTERM), None)],
        [(1, Exit::Signal(11), None), (0, Exit::PREEMPTED, None)],
    ] {
        let Verdict::Failed(failure, NoRestart::Stopping) = stopped(ends) else { panic!("{ends:?}") };
        assert_eq!(failure.rank, 1, "{ends:?}");
        assert_ne!(Verdict::Failed(failure, NoRestart::Stopping).exit_code(), crate::exit::PREEMPTED);
    }
    // The cause comes first, whoever was noticed first.
    let gone = Some("Connection closed by peer");
    let Verdict::Failed(failure, _) = stopped([(0, failed, gone), (1, failed, Some("disk full"))]) else { panic!() };
    assert_eq!((failure.rank, failure.consequences), (1, vec![(0, failed)]));
}

#[test]
fn end_by_the_signal_is_no_error_and_no_preemption() {
    let failed = Exit::Code(1);
    for ends in [
        [(0, Exit::PREEMPTED, None), (1, Exit::Signal(SIGTERM), None)],
        [(0, Exit::PREEMPTED, None), (1, Exit::Signal(SIGKILL), None)],
        [(0, Exit::Code(143), None), (1, Exit::Code(0), None)],
        // A program that ends in its own way when asked, or whose peer did.
        [(0, failed, None), (1, failed, None)],
        [(0, Exit::Signal(SIGTERM), None), (1, failed, Some("Connection closed by peer"))],
    ] {
        assert_eq!(stopped(ends), Verdict::Stopped(SIGTERM), "{ends:?}");
    }
    let snapshot = Some("snapshots/step".into());
    assert_eq!(stopped([(0, Exit::PREEMPTED, None), (1, Exit::Code(0), None)]), Verdict::Preempted { snapshot });
}

#[test]
fn program_that_reports_nothing_is_restarted_only_on_request() {
    let rules = Rules { only_reporting: true, ..Rules::default() };
    let mut silent = Job::with(1, rules.clone());
    let [Action::Finish(Verdict::Failed(_, why))] = &silent.exit(0, Exit::Code(1))[..] else { panic!() };
    assert_eq!(*why, NoRestart::Unreported);
    let mut reporting = Job::with(1, rules);
    reporting.step(0, 1);
    assert!(matches!(reporting.exit(0, Exit::Code(1))[..], [Action::Announce { .. }, Action::Start { .. }]));
    // Once is enough: a later attempt may fail before it reports.
    assert!(matches!(reporting.exit(0, Exit::Code(3))[..], [Action::Announce { .. }]));
    let mut asked_for = Job::new(1, 3);
    assert!(matches!(asked_for.exit(0, Exit::Code(1))[..], [Action::Announce { .. }, Action::Start { .. }]));
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
fn signal_during_a_restart_stops_the_job() {
    let mut job = Job::new(2, 3);
    job.exit(0, Exit::Code(1));
    assert_eq!(job.signal(SIGTERM), [Action::Signal(SIGTERM)]);
    assert_eq!(job.exit(1, Exit::Code(0)), [Action::Finish(Verdict::Stopped(SIGTERM))]);
}

#[test]
fn end_that_a_node_reports_again_is_ignored() {
    let mut job = Job::new(2, 3);
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
