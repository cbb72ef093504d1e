//! The words for what happens to a job.

use std::path::Path;
use std::time::Duration;

use ddp_contract::job::{Cause, Consequence, Job, Outcome, Saved};

pub(super) use crate::error::ranks;
use crate::launch::Because;
use crate::launch::event::{Activity, Blocker, Exposure, Launched, LauncherEnd, RankStack, Restarting};
use crate::launch::outcome::{Known, signal_name};
use crate::launch::plan::Binding;

/// Up to this many workers have their process ids on the line; all are in `cargo ddp ps`.
const MOST_PIDS: usize = 8;
/// Up to this many nodes are named.
const MOST_NODES: usize = 8;

/// `1 worker`, `2 workers`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// `node 1`, `nodes 1, 2`.
pub(super) fn nodes(nodes: &[usize]) -> String {
    let names: Vec<_> = nodes.iter().take(MOST_NODES).map(ToString::to_string).collect();
    match nodes.len() {
        1 => format!("node {}", names.join(", ")),
        ..=MOST_NODES => format!("nodes {}", names.join(", ")),
        many => format!("nodes {}, … ({many} nodes)", names.join(", ")),
    }
}

/// The workers of an attempt: `2 workers on GPU 2, 3: rank 0 pid 4711, rank 1 pid 4712`.
pub(super) fn running(launched: &Launched) -> String {
    let Launched { first_rank, pids, world_size, gpus, .. } = launched;
    let workers = match pids.len() {
        own if own == *world_size => count(own, "worker"),
        own => format!("{} of {world_size}", count(own, "worker")),
    };
    let place = match gpus {
        Some(gpus) if !gpus.is_empty() => format!("on GPU {}", gpus.join(", ")),
        _ => "on the CPU".into(),
    };
    if pids.len() > MOST_PIDS {
        return format!("{workers} {place}: {}", pid_range(pids));
    }
    let ranks: Vec<_> = (*first_rank..).zip(pids).map(|(rank, pid)| format!("rank {rank} pid {pid}")).collect();
    format!("{workers} {place}: {}", ranks.join(", "))
}

/// `pids 4711-4966`, or `pids 4711 … 4970` if others are in between.
fn pid_range(pids: &[u32]) -> String {
    let (Some(first), Some(last)) = (pids.first(), pids.last()) else { return String::new() };
    let in_a_row = pids.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
    if in_a_row {
        format!("pids {first}-{last}")
    } else {
        format!("pids {first} … {last} (all: `cargo ddp ps --json`)")
    }
}

/// Where workers are bound: `rank 0 to CPUs 0-3 (NUMA node 0), rank 1 to …`.
pub(crate) fn bindings(bindings: &[Binding]) -> String {
    let ranks = bindings.iter().enumerate().map(|(rank, binding)| format!("rank {rank} to {}", binding_words(binding)));
    ranks.collect::<Vec<_>>().join(", ")
}

/// `CPUs 0-3 (NUMA node 0)`.
fn binding_words(binding: &Binding) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in &binding.cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let list: Vec<_> = ranges.iter().map(text).collect();
    let cpus = if binding.cpus.len() == 1 { "CPU" } else { "CPUs" };
    let node = binding.node.map_or(String::new(), |node| format!(" (NUMA node {node})"));
    format!("{cpus} {}{node}", list.join(","))
}

/// A restart.
pub(super) fn restarting(restarting: &Restarting) -> String {
    let Restarting { report, attempt, max_restarts, delay, newest } = restarting;
    let from = match newest {
        Some(Known { snapshot, step }) => {
            format!("from {}{}", display_path(snapshot), steps_back(report.cause.step, *step))
        }
        None => "from scratch, as there is no snapshot yet".into(),
    };
    let wait = if delay.is_zero() { String::new() } else { format!(" in {}", seconds(*delay)) };
    // The count starts again with each new snapshot, so it may be beyond the limit.
    let count =
        if attempt <= max_restarts { format!("{attempt} of {max_restarts}") } else { format!("restart {attempt}") };
    format!("all workers{wait} {from} ({count})")
}

/// `, 6 steps back`, if steps since a snapshot are lost.
fn steps_back(last_step: Option<u64>, snapshot: u64) -> String {
    let lost = last_step.and_then(|last| last.checked_sub(snapshot)).filter(|lost| *lost > 0);
    lost.map(|lost| format!(", {} back", count(lost.try_into().unwrap_or(usize::MAX), "step"))).unwrap_or_default()
}

/// A job that ended well: `2 workers in 7.5 s, step 138, 1 restart; saved in snapshots/step-00000138`.
pub(super) fn finished(job: &Job, restarts: u32, time: Duration) -> String {
    let mut line = format!("{} in {:.1} s", count(job.world_size, "worker"), time.as_secs_f64());
    if let Some(step) = job.last_step {
        line += &format!(", step {step}");
    }
    if restarts > 0 {
        line += &format!(", {}", count(restarts as usize, "restart"));
    }
    if let Some(saved) = &job.snapshot {
        line += &format!("; saved in {}", display_path(&saved.snapshot));
    }
    line
}

/// A job that was stopped, and has saved.
pub(super) fn preempted(snapshot: Option<&Path>) -> String {
    let place = snapshot.map(|snapshot| format!(" from {}", display_path(snapshot))).unwrap_or_default();
    format!("as asked; run it again to resume{place}")
}

/// A job that was stopped by a signal before it saved.
pub(super) fn stopped(job: &Job, signal: i32) -> String {
    let signal = signal_name(signal);
    match &job.snapshot {
        Some(Saved { snapshot, step, .. }) => {
            let lost = steps_back(job.last_step, *step);
            format!("by {signal}; run it again to resume from {}{lost}", display_path(snapshot))
        }
        None => format!("by {signal}; there is no snapshot to resume from"),
    }
}

/// A first Ctrl-C.
pub(super) fn stopping(grace: Duration) -> String {
    format!("after saving (at most {}); press Ctrl-C again to stop now", seconds(grace))
}

/// Workers that should end, and are paused in a debugger.
pub(super) fn paused(paused: &[usize]) -> String {
    let (verb, object) = if paused.len() == 1 { ("is", "it") } else { ("are", "them") };
    format!("{} {verb} paused in a debugger: resume {object} there to let {object} exit", ranks(paused))
}

/// A job that makes no progress.
pub(super) fn stalled(idle: Duration, steps: &[Option<u64>]) -> String {
    let idle = seconds(idle);
    let Some(furthest) = steps.iter().flatten().max() else {
        return format!("no progress for {idle}: no rank has finished a step");
    };
    let behind = steps.iter().enumerate().filter(|(_, step)| step.is_none_or(|step| step < *furthest));
    let behind: Vec<_> = behind.map(|(rank, _)| rank).collect();
    if behind.is_empty() {
        let next = furthest.saturating_add(1);
        return format!("no progress for {idle}: every rank finished step {furthest} and none finished step {next}");
    }
    let have = if behind.len() == 1 { "has" } else { "have" };
    format!("no progress for {idle}: {} {have} not reached step {furthest}, which others have finished", ranks(&behind))
}

/// What a rank of a stalled job does.
pub(super) fn stack(stack: &RankStack) -> String {
    let does = match &stack.activity {
        Activity::Waits(function) => format!("waits for other ranks in {function}"),
        Activity::Runs(function) => format!("is in {function}"),
        Activity::Unknown => "could not be examined".into(),
    };
    format!("  rank {} {does} ({})", stack.rank, stack.file.display())
}

/// What is in place of the link to the newest run.
pub(super) fn blocker(by: &Blocker) -> String {
    match by {
        Blocker::Link(to) => format!("a link to {}", to.display()),
        Blocker::CopyOfRun => "a copy of a run".into(),
        Blocker::Directory => "a directory".into(),
        Blocker::File => "a file".into(),
    }
}

/// How the launcher's own process ended, as its guard reports it.
pub(super) fn launcher_end(end: LauncherEnd) -> String {
    match end {
        LauncherEnd::Unresponsive => "the launcher did not respond; it and its workers were killed".into(),
        LauncherEnd::Killed(signal) => {
            format!("the launcher itself was killed by signal {signal}; its workers have ended")
        }
    }
}

pub(super) fn exposure(exposure: &Exposure) -> String {
    match exposure {
        Exposure::Everybody(path) => {
            let path = path.display();
            format!("every user of this machine can read or change the secret file {path}: `chmod 600 {path}`")
        }
        Exposure::AnotherUser(path) => format!("the secret file {} belongs to another user", path.display()),
    }
}

/// The word for an outcome.
pub(crate) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Running => "running",
        Outcome::Waiting => "waiting",
        Outcome::Done => "done",
        Outcome::Preempted => "preempted",
        Outcome::Failed => "failed",
        Outcome::Stopped => "stopped",
        Outcome::NodeLost => "node lost",
        Outcome::Lost => "lost",
    }
}

/// Why a run is in its state.
pub(crate) fn because(because: &Because) -> String {
    match because {
        Because::Error(error) => error.clone(),
        Because::Cause(cause) => how(cause),
        Because::StoppedWaiting => "while it waited for its nodes".into(),
        Because::Signal(signal) => signal.clone(),
        Because::OnMachine(machine) => format!("on {machine}, or lost there"),
    }
}

/// `rank 1 ended with exit code 3`.
fn how(cause: &Cause) -> String {
    let Cause { rank, exit_code, signal, stalled_seconds, .. } = cause;
    match stalled_seconds {
        Some(idle) => format!("rank {rank} made no progress for {idle:.0} s"),
        None => format!("rank {rank} {}", ended(*exit_code, signal.as_deref())),
    }
}

/// How a worker ended.
pub(super) fn ended(exit_code: Option<i32>, signal: Option<&str>) -> String {
    match (signal, exit_code) {
        (Some(signal), _) => format!("was killed by {signal}"),
        (None, Some(101)) => "panicked (exit code 101)".into(),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "failed".into(),
    }
}

/// How the other ranks ended.
pub(super) fn consequences(consequences: &[Consequence]) -> String {
    let one = |it: &Consequence| format!("rank {} {}", it.rank, ended(it.exit_code, it.signal.as_deref()));
    consequences.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A path for people: relative to the working directory, if it is inside.
pub(crate) fn display_path(path: &Path) -> String {
    let folder = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

pub(super) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 && seconds.fract() > 0.05 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::event::FailureReport;

    fn launched(pids: Vec<u32>, world_size: usize) -> Launched {
        Launched { run: "run-1-2".into(), attempt: 0, first_rank: 0, pids, world_size, gpus: None }
    }

    #[test]
    fn counts_have_a_plural() {
        assert_eq!([0, 1, 2].map(|n| count(n, "restart")), ["0 restarts", "1 restart", "2 restarts"]);
    }

    #[test]
    fn few_workers_are_listed_and_many_are_a_range() {
        assert_eq!(running(&launched(vec![7, 9], 2)), "2 workers on the CPU: rank 0 pid 7, rank 1 pid 9");
        let second = Launched { first_rank: 1, gpus: Some(vec!["2".into()]), ..launched(vec![7], 2) };
        assert_eq!(running(&second), "1 worker of 2 on GPU 2: rank 1 pid 7");
        let many: Vec<u32> = (4711..4711 + 256).collect();
        assert_eq!(running(&launched(many.clone(), 256)), "256 workers on the CPU: pids 4711-4966");
        let gaps = many.iter().map(|pid| pid * 2).collect();
        let line = running(&launched(gaps, 256));
        assert_eq!(line, "256 workers on the CPU: pids 9422 … 9932 (all: `cargo ddp ps --json`)");
        assert!(running(&launched((1..=8).collect(), 8)).ends_with("rank 7 pid 8"));
    }

    #[test]
    fn restart_names_the_snapshot_and_the_steps_that_are_lost() {
        let line = |attempt, max_restarts, newest: Option<u64>, step, delay| {
            let newest = newest.map(|step| Known { snapshot: "snapshots/step-00000064".into(), step });
            let report = FailureReport { cause: Cause { step, ..Cause::default() }, ..FailureReport::default() };
            restarting(&Restarting { report, attempt, max_restarts, delay: Duration::from_secs(delay), newest })
        };
        assert_eq!(
            line(1, 3, Some(64), Some(70), 0),
            "all workers from snapshots/step-00000064, 6 steps back (1 of 3)"
        );
        assert_eq!(line(1, 3, Some(64), Some(65), 0), "all workers from snapshots/step-00000064, 1 step back (1 of 3)");
        assert_eq!(line(2, 3, Some(64), None, 1), "all workers in 1 s from snapshots/step-00000064 (2 of 3)");
        let scratch = "all workers from scratch, as there is no snapshot yet (restart 7)";
        assert_eq!(line(7, 1, None, Some(3), 0), scratch);
    }

    #[test]
    fn stall_names_the_ranks_that_are_behind() {
        let idle = Duration::from_secs(600);
        assert_eq!(
            stalled(idle, &[Some(12), Some(11), Some(12)]),
            "no progress for 600 s: rank 1 has not reached step 12, which others have finished"
        );
        assert_eq!(
            stalled(idle, &[Some(12), Some(12)]),
            "no progress for 600 s: every rank finished step 12 and none finished step 13"
        );
        assert_eq!(stalled(idle, &[None]), "no progress for 600 s: no rank has finished a step");
    }

    #[test]
    fn bindings_are_ranges_of_cores() {
        let binding = |cpus: &[usize], node| Binding { cpus: cpus.to_vec(), node };
        let words = bindings(&[binding(&[0, 1, 2], Some(0)), binding(&[4, 6, 7], Some(1)), binding(&[5], None)]);
        assert_eq!(words, "rank 0 to CPUs 0-2 (NUMA node 0), rank 1 to CPUs 4,6-7 (NUMA node 1), rank 2 to CPU 5");
    }
}
