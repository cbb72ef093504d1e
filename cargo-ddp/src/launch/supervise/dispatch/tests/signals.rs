//! What ends a job from outside.

use super::restarts::fail;
use super::*;

#[test]
fn signal_while_waiting_for_a_restart_ends_the_job() {
    let mut job = Simulation::new(1, 3);
    fail(&mut job, "a").unwrap();
    assert!(matches!(job.says(0, Exit::Code(1), Some("b"))[..], [Action::Announce { .. }]));
    assert_eq!(job.signal(SIGUSR1), []);
    assert_eq!(job.signal(SIGINT), [Action::Finish(Verdict::Stopped(SIGINT))]);
}

#[test]
fn lost_guard_ends_the_job_immediately() {
    let mut job = Simulation::new(2, 3);
    assert_eq!(job.dispatcher.handle(Input::Orphaned, job.now), [Action::Signal(SIGKILL)]);
    job.exit(0, Exit::Signal(SIGKILL));
    assert_eq!(job.exit(1, Exit::Signal(SIGKILL)), [Action::Finish(Verdict::Stopped(SIGKILL))]);
}
#[test]
fn signal_is_forwarded_to_the_workers_and_the_second_kills() {
    let mut job = Simulation::new(2, 3);
    assert_eq!(job.signal(SIGINT), [Action::Signal(SIGINT)]);
    assert_eq!(job.signal(SIGINT), [Action::Signal(SIGKILL)]);
    job.exit(0, Exit::Signal(SIGKILL));
    assert_eq!(job.exit(1, Exit::Signal(SIGKILL)), [Action::Finish(Verdict::Stopped(SIGINT))]);
}

#[test]
fn workers_that_save_and_exit_on_sigterm_did_not_fail() {
    for asked in [SIGTERM, SIGUSR1] {
        let mut job = Simulation::new(2, 3);
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
    let mut job = Simulation::new(2, 3);
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
fn exit_by_the_forwarded_signal_is_neither_an_error_nor_a_preemption() {
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
fn sigusr1_does_not_end_the_job() {
    let mut job = Simulation::new(2, 0);
    assert_eq!(job.signal(SIGUSR1), [Action::Signal(SIGUSR1)]);
    assert_eq!(job.signal(SIGUSR1), [Action::Signal(SIGUSR1)]);
    assert_eq!(job.dispatcher.deadline(), None);
    job.exit(0, Exit::Code(0));
    assert_eq!(job.exit(1, Exit::Code(0)), [Action::Finish(Verdict::Done { restarts: 0 })]);
}

#[test]
fn signal_during_a_restart_stops_the_job() {
    let mut job = Simulation::new(2, 3);
    job.exit(0, Exit::Code(1));
    assert_eq!(job.signal(SIGTERM), [Action::Signal(SIGTERM)]);
    assert_eq!(job.exit(1, Exit::Code(0)), [Action::Finish(Verdict::Stopped(SIGTERM))]);
}
