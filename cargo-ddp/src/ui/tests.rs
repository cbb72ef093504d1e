//! Every event of the launcher through the real reporter, as text snapshots: the lines for people, and those of `--json`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ddp_contract::Event;
use ddp_contract::job::{Cause, Consequence, Job, Saved};

use super::*;
use crate::launch::event::{
    Activity, Blocker, Exposure, Failed, FailureReport, LaunchEvent, Launched, LauncherEnd, Output, RankStack,
    Reporter, Restarting,
};
use crate::launch::outcome::{Exit, Failure, Known, NoRestart, Verdict};
use crate::snap::assert_text;

/// What a user interface has written, both streams in one.
#[derive(Clone, Debug, Default)]
pub(super) struct Captured(Arc<Mutex<String>>);

impl Captured {
    pub(super) fn push(&self, target: Target, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        // stderr is the rule.
        let mark = if target == Target::Stdout { "stdout: " } else { "" };
        self.0.lock().unwrap().extend(text.split_inclusive('\n').map(|line| format!("{mark}{line}")));
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Ui {
    fn captured(json: bool) -> (Self, Captured) {
        let captured = Captured::default();
        let ui = Self { terminal: false, stdout_terminal: false, ..Self::new().with_color(Color::Never).json(json) };
        (Self { captured: Some(captured.clone()), ..ui }, captured)
    }
}

/// Names the variants once. A new variant of [`LaunchEvent`] fails to compile until it is listed, and a listed one fails
/// [`every_event_has_a_sample`] until [`samples`] has it.
macro_rules! events {
    ($($variant:ident),+ $(,)?) => {
        const EVENTS: &[&str] = &[$(stringify!($variant)),+];

        fn name(event: &LaunchEvent) -> &'static str {
            match event {
                $(LaunchEvent::$variant { .. } => stringify!($variant),)+
            }
        }
    };
}

events! {
    RunsPruned, LatestBlocked, NotListed, LogEnded, SecretFileAwaited, SecretExposed, NoSecret, NodesAwaited, JoiningNode0,
    NodeJoined, NodeLeft, LauncherRefused, RefusalsHidden, NodeLost, WorkersAwaited, WorkerLeft, WorkerRefused,
    StrangerRefused, Launched, Worker, Stopping, RanksPaused, Restarting, Stalled, Stacks, Failed, StoppedEverywhere, Finished,
}

fn snapshot(step: u64) -> PathBuf {
    format!("snapshots/step-{step:08}").into()
}

fn cause() -> Cause {
    let consequence = Consequence { rank: 0, signal: Some("SIGTERM".into()), ..Consequence::default() };
    Cause {
        rank: 1,
        pid: 4712,
        gpu: Some("3".into()),
        signal: Some("SIGKILL".into()),
        step: Some(120),
        consequences: vec![consequence],
        ..Cause::default()
    }
}

/// A panic of a worker with an error file.
fn panicked() -> Cause {
    Cause {
        rank: 1,
        pid: 4712,
        exit_code: Some(101),
        message: Some("the loss is NaN\nat batch 7".into()),
        location: Some("src/main.rs:67:9".into()),
        stderr: vec!["epoch 3".into(), "the loss is NaN".into()],
        ..Cause::default()
    }
}

fn report(cause: Cause) -> FailureReport {
    FailureReport { cause, ..FailureReport::default() }
}

fn samples() -> Vec<LaunchEvent> {
    [files(), nodes(), joining(), workers(), stops(), failures(), ends()].into_iter().flatten().collect()
}

fn files() -> Vec<LaunchEvent> {
    let blocked = |by| LaunchEvent::LatestBlocked { latest: "runs/latest".into(), by };
    vec![
        LaunchEvent::RunsPruned { first: 3, last: 3, kept: 20 },
        LaunchEvent::RunsPruned { first: 1, last: 3, kept: 20 },
        blocked(Blocker::Link("/elsewhere".into())),
        blocked(Blocker::CopyOfRun),
        blocked(Blocker::Directory),
        blocked(Blocker::File),
        LaunchEvent::NotListed { problem: "No space left on device (os error 28)".into() },
        LaunchEvent::LogEnded {
            path: "runs/7/attempt-0/rank1.log".into(),
            problem: "No space left on device (os error 28)".into(),
        },
    ]
}

fn nodes() -> Vec<LaunchEvent> {
    let place = || "10.0.0.1:29500".to_owned();
    let host = || "gpu-b".to_owned();
    vec![
        LaunchEvent::SecretFileAwaited { path: "/shared/secret".into() },
        LaunchEvent::SecretExposed(Exposure::Everybody("/shared/secret".into())),
        LaunchEvent::SecretExposed(Exposure::AnotherUser("/shared/secret".into())),
        LaunchEvent::NoSecret { place: place() },
        LaunchEvent::NodesAwaited { missing: vec![1], nnodes: 2, place: place() },
        LaunchEvent::NodesAwaited { missing: (1..20).collect(), nnodes: 20, place: place() },
        LaunchEvent::JoiningNode0 { place: place(), node_rank: 1, nnodes: 2 },
        LaunchEvent::NodeJoined { node: 1, host: host() },
        LaunchEvent::NodeLeft { node: 1, host: host() },
        LaunchEvent::LauncherRefused {
            from: [10, 0, 0, 7].into(),
            problem: "the job secret differs from node 0's".into(),
        },
        LaunchEvent::RefusalsHidden,
        LaunchEvent::NodeLost { why: "node 1 (gpu-b) was lost: no message for 20 s".into() },
    ]
}

fn joining() -> Vec<LaunchEvent> {
    vec![
        LaunchEvent::WorkersAwaited { ranks: vec![0, 1], program: "train".into(), limit: Duration::from_secs(600) },
        LaunchEvent::WorkerLeft { rank: 1 },
        LaunchEvent::WorkerRefused { problem: "rank 1 has already joined".into() },
        LaunchEvent::StrangerRefused { pid: 4711, uid: 1001 },
    ]
}

fn workers() -> Vec<LaunchEvent> {
    let launched = Launched {
        run: "run-7-4710".into(),
        attempt: 0,
        first_rank: 0,
        pids: vec![4711, 4712],
        world_size: 2,
        gpus: Some(vec!["2".into(), "3".into()]),
    };
    let worker = |event| LaunchEvent::Worker { rank: 0, event };
    vec![
        LaunchEvent::Launched(Launched {
            pids: (4711..4727).collect(),
            world_size: 32,
            gpus: None,
            ..launched.clone()
        }),
        LaunchEvent::Launched(launched),
        worker(Event::Started { version: 1 }),
        worker(Event::Resumed { snapshot: snapshot(64), epoch: 1, step: 64 }),
        worker(Event::Step {
            epoch: 1,
            step: 65,
            loss: Some(0.25),
            steps: Some(120),
            samples: Some(64),
            learning_rate: Some(0.001),
            grad_norm: None,
            memory: None,
        }),
        worker(Event::SnapshotSaved {
            snapshot: snapshot(96),
            epoch: 2,
            step: 96,
            metric: Some(0.5),
            lower_is_better: Some(true),
        }),
        worker(Event::Unknown),
    ]
}

fn stops() -> Vec<LaunchEvent> {
    let idle = Duration::from_secs(600);
    let stack = |rank, activity| RankStack { rank, activity, file: format!("runs/7/stacks/rank{rank}.txt").into() };
    vec![
        LaunchEvent::Stopping { grace: Duration::from_secs(10) },
        LaunchEvent::RanksPaused { ranks: vec![1], after: None },
        LaunchEvent::RanksPaused { ranks: vec![0, 2], after: Some(Box::new(cause())) },
        LaunchEvent::Stalled { idle, steps: vec![None, None] },
        LaunchEvent::Stalled { idle, steps: vec![Some(12), Some(12)] },
        LaunchEvent::Stalled { idle, steps: vec![Some(12), Some(11), None] },
        LaunchEvent::Stacks(None),
        LaunchEvent::Stacks(Some(vec![
            stack(0, Activity::Waits("all_reduce".into())),
            stack(1, Activity::Runs("train::load".into())),
            stack(2, Activity::Unknown),
        ])),
        LaunchEvent::StoppedEverywhere { signal: 15 },
    ]
}

fn failures() -> Vec<LaunchEvent> {
    let restarting = |report, attempt, delay, newest: Option<u64>| {
        let newest = newest.map(|step| Known { snapshot: snapshot(step), step });
        LaunchEvent::Restarting(Box::new(Restarting { report, attempt, max_restarts: 3, delay, newest }))
    };
    let failed = |report, no_restart| {
        let run_dir = "runs/7".into();
        Failed { report, no_restart, at_startup: false, oom_kills: None, run_dir }
    };
    let event = |failed| LaunchEvent::Failed(Box::new(failed));
    let exited = |exit_code| report(Cause { rank: 1, pid: 4712, exit_code: Some(exit_code), ..Cause::default() });
    let stalled = Cause { stalled_seconds: Some(600.0), node: Some("node 1 (gpu-b)".into()), ..cause() };
    let traceback = FailureReport { traceback: Some("Traceback …\n  train.py, line 7".into()), ..report(panicked()) };
    let killed = |oom_kills| Failed {
        report: FailureReport { exit: Some(Exit::Signal(9)), ..report(cause()) },
        oom_kills,
        ..failed(report(cause()), NoRestart::Never)
    };
    vec![
        restarting(report(cause()), 1, Duration::ZERO, Some(64)),
        restarting(report(panicked()), 2, Duration::from_secs(1), None),
        restarting(report(stalled), 4, Duration::from_millis(2500), Some(120)),
        event(killed(None)),
        event(killed(Some(0))),
        event(killed(Some(1))),
        event(failed(traceback, NoRestart::Never)),
        event(failed(exited(2), NoRestart::Usage)),
        event(failed(exited(3), NoRestart::UsedUp(3))),
        event(Failed { at_startup: true, ..failed(exited(3), NoRestart::Again) }),
        event(failed(exited(3), NoRestart::Again)),
        event(failed(exited(3), NoRestart::Stopping)),
        event(failed(exited(3), NoRestart::Unreported)),
        event(failed(exited(3), NoRestart::NodeLost)),
    ]
}

fn ends() -> Vec<LaunchEvent> {
    let saved = Saved { snapshot: snapshot(96), step: 96, metric: None };
    let job = Job {
        version: 1,
        run: "run-7-4710".into(),
        run_dir: "runs/7".into(),
        world_size: 2,
        nnodes: 1,
        last_step: Some(120),
        ..Job::default()
    };
    let saving = Job { snapshot: Some(saved), ..job.clone() };
    let finished = |verdict, job: &Job| LaunchEvent::Finished {
        verdict,
        job: Box::new(job.clone()),
        elapsed: Duration::from_millis(7500),
    };
    vec![
        finished(Verdict::Done { restarts: 0 }, &job),
        finished(Verdict::Done { restarts: 1 }, &saving),
        finished(Verdict::Preempted { snapshot: Some(snapshot(96)) }, &saving),
        finished(Verdict::Preempted { snapshot: None }, &job),
        finished(Verdict::Stopped(2), &job),
        finished(Verdict::Stopped(15), &saving),
        finished(Verdict::Failed(Failure::example(), NoRestart::Never), &job),
        finished(Verdict::NodeLost("node 1 (gpu-b) was lost: no message for 20 s".into()), &job),
    ]
}

/// What a job's user interface writes for each event.
fn reported(json: bool) -> String {
    let mut text = String::new();
    for event in samples() {
        let (ui, captured) = Ui::captured(json);
        let mut reporter = JobUi::new(ui);
        reporter.begin();
        text += &format!("# {}\n", name(&event));
        reporter.report(event);
        text += &captured.take();
        text.push('\n');
    }
    text
}

#[test]
fn every_event_has_a_sample() {
    let samples = samples();
    let sampled: BTreeSet<_> = samples.iter().map(name).collect();
    let missing: Vec<_> = EVENTS.iter().filter(|name| !sampled.contains(*name)).collect();
    assert!(missing.is_empty(), "no sample of {missing:?}");
}

#[test]
fn event_lines_match_their_snapshot() {
    assert_text!("events", reported(false));
}

#[test]
fn event_lines_of_json_match_their_snapshot() {
    let lines = reported(true);
    let mut json: Vec<_> = lines.lines().filter_map(|line| line.strip_prefix("stdout: ")).collect();
    // The verdict of a job is not part of its last event.
    let mut seen = BTreeSet::new();
    json.retain(|line| seen.insert(*line));
    assert_text!("events_json", json.join("\n"));
}

#[test]
fn launcher_ends_match_their_snapshot() {
    let ends = [LauncherEnd::Unresponsive, LauncherEnd::Killed(9)].map(messages::launcher_end);
    assert_text!("launcher_ends", ends.join("\n"));
}

#[test]
fn worker_output_has_the_rank_or_is_json() {
    let mut text = String::new();
    for json in [false, true] {
        let (ui, captured) = Ui::captured(json);
        let mut reporter = JobUi::new(ui);
        for (stream, bytes) in [(Target::Stdout, "one\ntw"), (Target::Stderr, "warning: x\n"), (Target::Stdout, "o")] {
            reporter.output(Output { rank: 1, stream, bytes: bytes.as_bytes(), ends: bytes == "o" });
        }
        text += &captured.take();
    }
    assert_text!("output", text);
}
