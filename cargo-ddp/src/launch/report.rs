//! The words for what happened to a job, and the record of it as JSON.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ddp_contract::{ErrorFile, Event, env};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dispatch::{Exit, Failure, Known, NoRestart, Rules, Verdict};
use super::plan::LaunchPlan;
use crate::exit;

/// The line for a failure: who, how, where.
pub(super) fn headline(failure: &Failure, plan: &LaunchPlan) -> String {
    let mut place = format!("pid {}", failure.pid);
    if let Some(node) = plan.node_of(failure.rank) {
        place = format!("{node}, {place}");
    }
    if let Some(gpu) = plan.gpu_of(failure.rank) {
        place += &format!(", GPU {gpu}");
    }
    let told = || ErrorFile::read(&plan.error_file(failure.rank, failure.attempt))?.step();
    let step = match failure.step.or_else(told) {
        Some(step) => format!("after step {step}"),
        None => "before its first step".into(),
    };
    match failure.stalled {
        Some(idle) => format!("rank {} made no progress for {} ({place}) {step}", failure.rank, seconds(idle)),
        None => format!("rank {} {} ({place}) {step}", failure.rank, ended(failure.exit)),
    }
}

/// What the failed rank left to say, and what its failure led to.
pub(super) fn details(failure: &Failure, plan: &LaunchPlan, last_lines: &[String], shown: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let error = ErrorFile::read(&plan.error_file(failure.rank, failure.attempt));
    if let Some(error) = &error {
        lines.push(format!("  it said: {}", error.message().replace('\n', "\n    ")));
        match error.location() {
            Some(location) => lines.push(format!("  at {location}")),
            // A Python worker's trace-back is the only place it names.
            None if error.backtrace().starts_with("Traceback") => {
                lines.extend(error.backtrace().lines().map(|line| format!("    {line}")));
            }
            None => {}
        }
    }
    // A rank that is on the screen and has said why needs no repetition.
    if !last_lines.is_empty() && (error.is_none() || !shown) {
        lines.push("  its last lines on stderr:".into());
        lines.extend(last_lines.iter().map(|line| format!("    {line}")));
    }
    if !failure.consequences.is_empty() {
        let others: Vec<_> =
            failure.consequences.iter().map(|(rank, exit)| format!("rank {rank} {}", ended(*exit))).collect();
        lines.push(format!("  then: {}", others.join(", ")));
    }
    lines
}

/// What the launcher knows about usual causes, and where to read on.
pub(super) fn hints(failure: &Failure, plan: &LaunchPlan, record: &Record, verdict: &Verdict) -> Vec<String> {
    let mut hints: Vec<String> = Vec::new();
    let mut text = failure.message.clone().unwrap_or_default();
    if let Some(cause) = &record.cause {
        text += &cause.stderr.join("\n");
    }
    hints.extend(usual_cause(failure.exit, &text, record.out_of_memory()).map(str::to_owned));
    match verdict {
        Verdict::Failed(_, NoRestart::Again) => hints.push(
            "it failed in the same way at the same step as the attempt before, so it was not started again".into(),
        ),
        Verdict::Failed(_, NoRestart::UsedUp(count)) => hints.push(format!(
            "{count} restarts brought no new snapshot, so it was not started again (`--max-restarts` allows more)"
        )),
        Verdict::Failed(_, NoRestart::NodeLost) => {
            hints.push("a node was lost as well, so it was not started again: start the launchers of all nodes".into());
        }
        _ => {}
    }
    hints.push(format!("all output is in {}", plan.run_dir.display()));
    hints
}

fn usual_cause(exit: Exit, text: &str, out_of_memory: Option<u64>) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    Some(match exit {
        Exit::Signal(9) => match out_of_memory {
            Some(1..) => {
                "the kernel ran out of memory and killed a process during this run: use a smaller batch, or fewer workers"
            }
            Some(0) => "the kernel has not run out of memory during this run: somebody, or a scheduler, sent SIGKILL",
            None => "SIGKILL without a message is usually the kernel out of memory (see `dmesg`), or a person",
        },
        Exit::Signal(4) => "SIGILL: libtorch or the program was built for another processor",
        Exit::Signal(7) => "SIGBUS: often a full /dev/shm, or a file that became shorter while it was mapped",
        Exit::Signal(11) => "SIGSEGV: run one process under a debugger to see where (`cargo ddp exec -- rust-gdb …`)",
        _ if says(&["error while loading shared libraries"]) => {
            "a shared library is missing; run `cargo ddp setup`, then build again"
        }
        _ if says(&["no GPUs found", "ProcessGroupNCCL is only supported with GPUs"]) => {
            "NCCL needs GPUs: use Gloo on the CPU, or see `cargo ddp gpus` for what this machine has"
        }
        _ if says(&["address already in use", "Address already in use", "EADDRINUSE"]) => {
            "a port is taken: another job, or what is left of one; `cargo ddp ps` lists the jobs of yours that run here"
        }
        _ if says(&["CUDA out of memory", "CUDA error: out of memory"]) => {
            "the GPU's memory is full: use a smaller batch; `cargo ddp gpus` says who uses it"
        }
        _ => return None,
    })
}

/// The line for a restart.
pub(super) fn restart(
    attempt: u32,
    newest: Option<&Known>,
    last_step: Option<u64>,
    delay: Duration,
    rules: &Rules,
) -> String {
    let from = match newest {
        Some(Known { snapshot, step }) => {
            let lost = last_step.and_then(|last| last.checked_sub(*step)).filter(|lost| *lost > 0);
            let lost = lost.map(|lost| format!(", {lost} steps back")).unwrap_or_default();
            format!("from {}{lost}", snapshot.display())
        }
        None => "from the beginning, as there is no snapshot yet".into(),
    };
    let wait = if delay.is_zero() { String::new() } else { format!(" in {}", seconds(delay)) };
    let limit = rules.max_restarts;
    // The count begins anew with each new snapshot, so it may be beyond the limit.
    let count = if attempt <= limit { format!("{attempt} of {limit}") } else { format!("restart {attempt}") };
    format!("all workers{wait} {from} ({count})")
}

/// The line for workers that should end, and can't.
pub(super) fn paused(ranks: &[usize]) -> String {
    let names: Vec<_> = ranks.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [one] => format!("rank {one} is paused in a debugger: it ends when it is continued there"),
        many => format!("ranks {} are paused in a debugger: they end when they are continued there", many.join(", ")),
    }
}

/// The line for a job that stands still.
pub(super) fn stalled(idle: Duration, steps: &[Option<u64>]) -> String {
    let idle = seconds(idle);
    let furthest = steps.iter().flatten().max();
    let Some(furthest) = furthest else {
        return format!("no rank has made a step, and there was nothing new for {idle}");
    };
    let behind: Vec<_> =
        steps.iter().enumerate().filter(|(_, step)| step.is_none_or(|step| step < *furthest)).collect();
    if behind.is_empty() {
        return format!("no progress for {idle}: all ranks are done with step {furthest}, and none with the next");
    }
    let names: Vec<_> = behind.iter().map(|(rank, _)| rank.to_string()).collect();
    let (ranks, have) = if names.len() == 1 { ("rank", "has") } else { ("ranks", "have") };
    format!(
        "no progress for {idle}: {ranks} {} {have} not reached step {furthest}, which others wait after",
        names.join(", ")
    )
}

fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 && seconds.fract() > 0.05 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

fn ended(exit: Exit) -> String {
    match exit {
        Exit::Code(101) => "panicked (exit code 101)".into(),
        Exit::Code(code) => format!("ended with exit code {code}"),
        Exit::Signal(signal) => format!("was killed by {}", signal_name(signal)),
    }
}

pub(super) fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// How a run ended, if it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not yet, as far as the record says.
    #[default]
    Running,
    /// All workers ended with code 0.
    Done,
    /// Told to stop, with everything saved.
    Preempted,
    /// A worker failed, or none could be started.
    Failed,
    /// Told to stop.
    Stopped,
    /// Another node of the job did not come, or was lost.
    NodeLost,
}

/// How often steps alone are worth writing down.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// The record of a run's folder.
pub(super) const RECORD_FILE: &str = "report.json";

/// What `--report FILE` holds, and `report.json` in the run's folder, which is kept up to date while it runs.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    pub(super) outcome: Outcome,
    /// The launcher's exit code.
    pub(super) exit_code: u8,
    pub(super) run: String,
    pub(super) run_dir: PathBuf,
    pub(super) nproc: usize,
    pub(super) node_rank: usize,
    pub(super) nnodes: usize,
    pub(super) world_size: usize,
    pub(super) gpus: Option<Vec<String>>,
    pub(super) command: Vec<String>,
    /// Seconds since 1970.
    pub(super) started: f64,
    pub(super) ended: f64,
    /// The last step that rank 0 told of.
    pub(super) last_step: Option<u64>,
    /// The newest snapshot.
    pub(super) snapshot: Option<Saved>,
    /// The snapshot with the best metric, where the run says which is better; else the newest with one.
    pub(super) best: Option<Saved>,
    /// The failures that restarts came after.
    pub(super) restarts: Vec<Restart>,
    /// The failure that ended the job.
    pub(super) cause: Option<Cause>,
    /// What kept it from starting.
    pub(super) error: Option<String>,
    #[serde(skip)]
    pub(super) oom_kills: Option<u64>,
    #[serde(skip)]
    pub(super) error_file: PathBuf,
    #[serde(skip)]
    pub(super) kept: Cell<Option<Instant>>,
}

/// A snapshot that a run saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Its folder.
    pub snapshot: PathBuf,
    /// Its step.
    pub step: u64,
    /// What the run was judged by.
    pub metric: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Restart {
    cause: Option<Cause>,
    snapshot: Option<PathBuf>,
    steps_lost: Option<u64>,
    delay_seconds: f64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Cause {
    rank: usize,
    /// Where there are several.
    node: Option<String>,
    pid: u32,
    gpu: Option<String>,
    attempt: u32,
    exit_code: Option<i32>,
    signal: Option<String>,
    step: Option<u64>,
    stalled_seconds: Option<f64>,
    message: Option<String>,
    location: Option<String>,
    stderr: Vec<String>,
    /// What happened to the others.
    consequences: Vec<Consequence>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Consequence {
    rank: usize,
    exit_code: Option<i32>,
    signal: Option<String>,
}

impl Cause {
    /// `rank 1 ended with exit code 3`, for a list.
    pub(super) fn words(&self) -> String {
        let rank = self.rank;
        match (&self.signal, self.exit_code, self.stalled_seconds) {
            (_, _, Some(idle)) => format!("rank {rank} made no progress for {idle:.0} s"),
            (Some(signal), ..) => format!("rank {rank} was killed by {signal}"),
            (None, Some(code), _) => format!("rank {rank} ended with exit code {code}"),
            (None, None, None) => format!("rank {rank} failed"),
        }
    }
}

impl Record {
    pub(super) fn new(plan: &LaunchPlan) -> Self {
        Self {
            run: plan.run_id.clone(),
            run_dir: plan.run_dir.clone(),
            nproc: plan.nproc,
            node_rank: plan.nodes.own,
            nnodes: plan.nodes.members.len(),
            world_size: plan.nodes.world_size(),
            gpus: plan.gpus.clone(),
            command: plan.command(),
            started: now(),
            oom_kills: oom_kills(),
            ..Self::default()
        }
    }

    pub(super) fn failed(&mut self, failure: &Failure, plan: &LaunchPlan, stderr: Vec<String>) {
        self.error_file = plan.error_file(failure.rank, failure.attempt);
        let error = ErrorFile::read(&self.error_file);
        let (exit_code, signal) = parts(failure.exit);
        let consequence = |(rank, exit): &(usize, Exit)| {
            let (exit_code, signal) = parts(*exit);
            Consequence { rank: *rank, exit_code, signal }
        };
        self.cause = Some(Cause {
            rank: failure.rank,
            node: plan.node_of(failure.rank),
            pid: failure.pid,
            gpu: plan.gpu_of(failure.rank).map(str::to_owned),
            attempt: failure.attempt,
            exit_code,
            signal,
            step: failure.step.or_else(|| error.as_ref()?.step()),
            stalled_seconds: failure.stalled.map(|idle| idle.as_secs_f64()),
            message: error.as_ref().map(|error| error.message().to_owned()),
            location: error.as_ref().and_then(|error| error.location()).map(str::to_owned),
            stderr,
            consequences: failure.consequences.iter().map(consequence).collect(),
        });
    }

    pub(super) fn restarted(&mut self, after: &Failure, newest: Option<&Known>, delay: Duration) {
        let steps_lost = newest.and_then(|known| after.step?.checked_sub(known.step));
        self.restarts.push(Restart {
            cause: self.cause.take(),
            snapshot: newest.map(|known| known.snapshot.clone()),
            steps_lost,
            delay_seconds: delay.as_secs_f64(),
        });
    }

    /// Notes what rank 0 tells. Says whether that is worth keeping at once.
    pub(super) fn note(&mut self, event: &Event) -> bool {
        match event {
            Event::Step { step, .. } | Event::Resumed { step, .. } => {
                // So that of a run that is lost, the last step is known about.
                let first = self.last_step.replace(*step).is_none();
                first || self.kept.get().is_none_or(|kept| kept.elapsed() > KEEP_EVERY)
            }
            Event::SnapshotSaved { snapshot, step, metric, lower_is_better, .. } => {
                let saved = Saved { snapshot: snapshot.clone(), step: *step, metric: *metric };
                let best = self.best.as_ref().and_then(|best| best.metric);
                let better = match (*metric, best, *lower_is_better) {
                    (None, ..) => false,
                    // Of equals the newest, as it is the one that stays.
                    (Some(new), Some(old), Some(true)) => new <= old || old.is_nan(),
                    (Some(new), Some(old), Some(false)) => new >= old || old.is_nan(),
                    (Some(_), ..) => true,
                };
                if better {
                    self.best = Some(saved.clone());
                }
                self.snapshot = Some(saved);
                true
            }
            _ => false,
        }
    }

    /// Keeps the record as it is in the run's folder, for `cargo ddp runs`: a convenience, whose failure is no failure of
    /// the job.
    pub fn keep(&self) {
        self.kept.set(Some(Instant::now()));
        if let Err(err) = self.write(&self.run_dir.join(RECORD_FILE)) {
            tracing::debug!(%err, "the record is not kept");
        }
    }

    /// The record of a job that the system refused to start, kept in its folder.
    pub fn keep_refused(plan: &LaunchPlan, err: &crate::Error) {
        let code = err.exit_code();
        let error = Some(err.to_string());
        Self { outcome: Outcome::Failed, exit_code: code, ended: now(), error, ..Self::new(plan) }.keep();
    }

    /// Processes that the kernel killed for want of memory since the job started; `None` where it does not say.
    fn out_of_memory(&self) -> Option<u64> {
        Some(oom_kills()?.saturating_sub(self.oom_kills?))
    }

    /// Adds how it ended, and keeps it.
    pub fn conclude(&mut self, verdict: &Verdict) {
        self.exit_code = exit::of(verdict);
        self.ended = now();
        self.outcome = match verdict {
            Verdict::Done { .. } => Outcome::Done,
            Verdict::Preempted { .. } => Outcome::Preempted,
            Verdict::Failed(..) => Outcome::Failed,
            Verdict::Stopped(_) => Outcome::Stopped,
            Verdict::NodeLost(_) => Outcome::NodeLost,
        };
        self.keep();
    }

    /// The record as an event of `--json`.
    pub fn to_json(&self) -> Value {
        let mut record = serde_json::to_value(self).unwrap_or_default();
        record["event"] = "finished".into();
        record
    }

    /// Writes the record to `path`, whole or not at all.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let readable = fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().permissions(readable).tempfile_in(folder)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.persist(path)?;
        Ok(())
    }

    /// Under a launcher of its own kind (a scheduler's agent) this one leaves its cause where it was told to.
    pub fn pass_on(&self) {
        let Some(path) = std::env::var_os(env::ERROR_FILE).map(PathBuf::from) else { return };
        let Some(cause) = &self.cause else { return };
        if fs::copy(&self.error_file, &path).is_err() {
            let how = cause.signal.clone().or_else(|| cause.exit_code.map(|code| format!("exit code {code}")));
            let message = format!("rank {} ended with {}", cause.rank, how.unwrap_or_default());
            let _ = ErrorFile::new(message, cause.stderr.join("\n")).of_rank(cause.rank).write(&path);
        }
    }
}

fn parts(exit: Exit) -> (Option<i32>, Option<String>) {
    match exit {
        Exit::Code(code) => (Some(code), None),
        Exit::Signal(signal) => (None, Some(signal_name(signal))),
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The kernel's own count.
fn oom_kills() -> Option<u64> {
    let counters = fs::read_to_string("/proc/vmstat").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_says_from_where_and_what_is_lost() {
        let rules = |max_restarts| Rules { max_restarts, ..Rules::default() };
        let newest = Known { snapshot: "snapshots/step-00000064".into(), step: 64 };
        let now = Duration::ZERO;
        assert_eq!(
            restart(1, Some(&newest), Some(70), now, &rules(3)),
            "all workers from snapshots/step-00000064, 6 steps back (1 of 3)"
        );
        assert_eq!(
            restart(2, Some(&newest), None, Duration::from_secs(1), &rules(3)),
            "all workers in 1 s from snapshots/step-00000064 (2 of 3)"
        );
        assert_eq!(
            restart(7, None, Some(3), now, &rules(1)),
            "all workers from the beginning, as there is no snapshot yet (restart 7)"
        );
    }

    #[test]
    fn a_stall_names_who_is_behind() {
        let idle = Duration::from_secs(600);
        assert_eq!(
            stalled(idle, &[Some(12), Some(11), Some(12)]),
            "no progress for 600 s: rank 1 has not reached step 12, which others wait after"
        );
        assert_eq!(
            stalled(idle, &[Some(12), Some(12)]),
            "no progress for 600 s: all ranks are done with step 12, and none with the next"
        );
        assert_eq!(stalled(idle, &[None]), "no rank has made a step, and there was nothing new for 600 s");
    }

    #[test]
    fn the_best_snapshot_is_the_one_that_the_run_calls_better() {
        let saved = |step, metric, lower_is_better| Event::SnapshotSaved {
            snapshot: format!("step-{step:08}").into(),
            epoch: 0,
            step,
            metric,
            lower_is_better,
        };
        let best = |better, metrics: [Option<f64>; 4]| {
            let mut record = Record::default();
            for (step, metric) in (1..).zip(metrics) {
                assert!(record.note(&saved(step, metric, better)));
            }
            assert_eq!(record.snapshot.unwrap().step, 4);
            record.best.map(|best| best.step)
        };
        let metrics = [Some(f64::NAN), Some(0.5), Some(0.9), None];
        assert_eq!(best(Some(true), metrics), Some(2));
        assert_eq!(best(Some(false), metrics), Some(3));
        assert_eq!(best(None, [Some(1.0), Some(2.0), Some(1.5), None]), Some(3), "the newest, where none is better");
        assert_eq!(best(Some(true), [None; 4]), None);
    }

    #[test]
    fn usual_causes_are_named() {
        let cause = |exit, text, oom| usual_cause(exit, text, oom).unwrap_or_default();
        assert!(cause(Exit::Signal(9), "", Some(1)).contains("out of memory and killed"));
        assert!(cause(Exit::Signal(9), "", Some(0)).contains("somebody"));
        assert!(
            cause(Exit::Code(127), "train: error while loading shared libraries: libtorch.so", None).contains("setup")
        );
        assert!(cause(Exit::Code(1), "RuntimeError: no GPUs found!", None).contains("Gloo"));
        assert_eq!(cause(Exit::Code(1), "", None), "");
    }
}
