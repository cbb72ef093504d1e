//! When a job is started again.

use super::*;
use crate::launch::supervise::dispatch::restart::LONGEST_BACKOFF;

#[test]
fn restarts_are_limited() {
    let mut job = Simulation::new(2, 1);
    job.exit(0, Exit::Code(3));
    let actions = job.exit(1, Exit::Signal(SIGTERM));
    assert!(matches!(actions[..], [Action::Announce { attempt: 1, .. }, Action::Start { attempt: 1 }]));
    job.exit(0, Exit::Code(4));
    let actions = job.exit(1, Exit::Signal(SIGTERM));
    assert!(matches!(actions[..], [Action::Finish(Verdict::Failed(_, NoRestart::UsedUp(1)))]));
}

/// All of a job of one rank: fails, and gives the time until the restart, or why there is none.
pub(super) fn fail(job: &mut Simulation, message: &str) -> Result<Duration, NoRestart> {
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
    let mut job = Simulation::new(1, 4);
    let delays: Vec<_> = ["a", "b", "c", "d", "e"].map(|message| fail(&mut job, message)).into();
    let seconds = Duration::from_secs;
    assert_eq!(delays, [Ok(seconds(0)), Ok(seconds(1)), Ok(seconds(2)), Ok(seconds(4)), Err(NoRestart::UsedUp(4))]);
}

#[test]
fn progress_resets_the_restart_count_and_the_back_off() {
    let mut job = Simulation::new(1, 2);
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
fn worker_that_saves_but_never_resumes_is_not_restarted() {
    let mut job = Simulation::new(1, 2);
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
    let mut job = Simulation::new(1, 100);
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
    let mut job = Simulation::new(1, 3);
    for _ in 0..3 {
        job.now += STARTUP + Duration::from_secs(1);
        assert!(matches!(job.exit(0, Exit::Code(1))[0], Action::Announce { .. }));
        job.now += Duration::from_secs(60);
        job.dispatcher.handle(Input::Tick, job.now);
    }
    let mut job = Simulation::new(1, 3);
    for _ in 0..3 {
        job.step(0, 5);
        assert!(matches!(job.exit(0, Exit::Signal(SIGKILL))[0], Action::Announce { .. }));
        job.now += Duration::from_secs(60);
        job.dispatcher.handle(Input::Tick, job.now);
    }
}

/// What comes of a rank that ends so: a restart, or why there is none.
fn after(job: &mut Simulation, rank: usize, exit: Exit, stderr: &str) -> Result<(), NoRestart> {
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
        assert_eq!(after(&mut Simulation::new(2, 3), 1, usage, stderr), Err(NoRestart::Usage));
    }
    // Arguments that were fine are fine: something else ends with this code.
    let mut job = Simulation::new(1, 3);
    job.step(0, 1);
    assert_eq!(after(&mut job, 0, usage, "a"), Ok(()));
    assert_eq!(after(&mut job, 0, usage, "b"), Ok(()));
    // A program without events that ran for some time.
    let mut job = Simulation::new(1, 3);
    job.now += STARTUP + Duration::from_secs(1);
    assert_eq!(after(&mut job, 0, usage, "a"), Ok(()));
    assert_eq!(after(&mut Simulation::new(1, 0), 0, usage, "a"), Err(NoRestart::Never));
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
        let mut job = Simulation::new(2, 3);
        assert_eq!(after(&mut job, 0, exit, ""), Ok(()));
        assert_eq!(after(&mut job, 0, exit, ""), Err(NoRestart::Again), "{exit:?}");
    }
    for exit in [Exit::Signal(SIGKILL), Exit::Signal(SIGQUIT), Exit::Code(128 + SIGKILL), Exit::Signal(SIGUSR1)] {
        let mut job = Simulation::new(2, 3);
        for _ in 0..3 {
            assert_eq!(after(&mut job, 0, exit, ""), Ok(()), "{exit:?}");
        }
    }
    // A number in the error file.
    let mut job = Simulation::new(1, 3);
    assert!(fail(&mut job, "can't bind 127.0.0.1:29500").is_ok());
    assert_eq!(fail(&mut job, "can't bind 127.0.0.1:29501"), Err(NoRestart::Again));
}

#[test]
fn identical_startup_failure_is_retried_once() {
    let failed = Exit::Code(101);
    let panic = |pid: u32| format!("thread 'main' ({pid}) panicked at src/main.rs:7:9:\nno file at 0x{pid:x}");
    let mut job = Simulation::new(2, 3);
    assert_eq!(after(&mut job, 0, failed, &panic(4711)), Ok(()));
    // Whichever rank is the first to fail.
    assert_eq!(after(&mut job, 1, failed, &panic(9_000_001)), Err(NoRestart::Again));

    let mut job = Simulation::new(1, 3);
    assert_eq!(after(&mut job, 0, failed, "connection refused"), Ok(()));
    assert_eq!(after(&mut job, 0, failed, "out of memory"), Ok(()));
    assert_eq!(after(&mut job, 0, Exit::Code(1), "out of memory"), Ok(()));
    assert_eq!(after(&mut job, 0, failed, "out of memory"), Err(NoRestart::UsedUp(3)));

    // After a step, only what a program says in its error file is compared.
    let mut job = Simulation::new(1, 3);
    for step in 0..3 {
        job.step(0, 10 - step);
        assert_eq!(after(&mut job, 0, failed, "interrupted system call"), Ok(()));
    }
}

#[test]
fn program_that_reports_nothing_is_restarted_only_on_request() {
    let rules = Rules { only_reporting: true, ..Rules::default() };
    let mut silent = Simulation::with(1, rules.clone());
    let [Action::Finish(Verdict::Failed(_, why))] = &silent.exit(0, Exit::Code(1))[..] else { panic!() };
    assert_eq!(*why, NoRestart::Unreported);
    let mut reporting = Simulation::with(1, rules);
    reporting.step(0, 1);
    assert!(matches!(reporting.exit(0, Exit::Code(1))[..], [Action::Announce { .. }, Action::Start { .. }]));
    // Once is enough: a later attempt may fail before it reports.
    assert!(matches!(reporting.exit(0, Exit::Code(3))[..], [Action::Announce { .. }]));
    let mut asked_for = Simulation::new(1, 3);
    assert!(matches!(asked_for.exit(0, Exit::Code(1))[..], [Action::Announce { .. }, Action::Start { .. }]));
}
