//! The record of a job as JSON: for `--report`, and for the list of runs.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ddp_contract::{ErrorFile, Event, env, file};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rundir::write_run_file;
use crate::launch::plan::LaunchPlan;
use crate::launch::supervise::dispatch::{Exit, Failure, Known, Verdict};
use crate::launch::words::signal_name;
use crate::os::output::Output;

/// How a run ended, if it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not yet.
    #[default]
    Running,
    /// Not yet: it waits for the launchers of its other nodes.
    Waiting,
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
    /// Its launcher is gone without a word (SIGKILL, a power cut). No record says so of itself.
    Lost,
}

impl Outcome {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Preempted => "preempted",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::NodeLost => "node lost",
            Self::Lost => "lost",
        }
    }
}

/// How often steps alone are worth writing down.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// How long the reader of a FIFO may keep the launcher from ending.
const REPORT_PATIENCE: Duration = Duration::from_secs(10);

/// How many restarts are kept.
const MOST_RESTARTS: usize = 1000;

/// The record of a run's folder.
pub(crate) const RECORD_FILE: &str = "report.json";

/// What `--report FILE` holds, and `report.json` in the run's folder, which is kept up to date while it runs.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    pub(crate) outcome: Outcome,
    /// The launcher's exit code.
    pub(crate) exit_code: u8,
    pub(crate) run: String,
    #[serde(serialize_with = "ddp_contract::text::lossy")]
    pub(crate) run_dir: PathBuf,
    pub(crate) nproc: usize,
    pub(crate) node_rank: usize,
    pub(crate) nnodes: usize,
    pub(crate) world_size: usize,
    pub(crate) gpus: Option<Vec<String>>,
    pub(crate) command: Vec<String>,
    /// Seconds since 1970.
    pub(crate) started: f64,
    pub(crate) ended: f64,
    /// The last step that rank 0 told of.
    pub(crate) last_step: Option<u64>,
    /// The newest snapshot.
    pub(crate) snapshot: Option<Saved>,
    /// The snapshot with the best metric, where the run says which is better; else the newest with one.
    pub(crate) best: Option<Saved>,
    /// The failures that restarts came after: the last [`MOST_RESTARTS`].
    pub(crate) restarts: Vec<Restart>,
    /// The failure that ended the job.
    pub(crate) cause: Option<Cause>,
    /// What kept it from starting.
    pub(crate) error: Option<String>,
    #[serde(skip)]
    pub(crate) oom_kills: Option<u64>,
    #[serde(skip)]
    pub(crate) error_file: PathBuf,
    #[serde(skip)]
    pub(crate) kept: Cell<Option<Instant>>,
}

/// A snapshot that a run saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Its folder.
    #[serde(serialize_with = "ddp_contract::text::lossy")]
    pub snapshot: PathBuf,
    /// Its step.
    pub step: u64,
    /// What the run was judged by.
    pub metric: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Restart {
    cause: Option<Cause>,
    #[serde(serialize_with = "ddp_contract::text::lossy_option")]
    snapshot: Option<PathBuf>,
    steps_lost: Option<u64>,
    delay_seconds: f64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Cause {
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
    pub(crate) stderr: Vec<String>,
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
    pub(crate) fn words(&self) -> String {
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
    pub(crate) fn new(plan: &LaunchPlan) -> Self {
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

    pub(crate) fn failed(&mut self, failure: &Failure, plan: &LaunchPlan, stderr: Vec<String>) {
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

    pub(crate) fn restarted(&mut self, after: &Failure, newest: Option<&Known>, delay: Duration) {
        // Another node decides when there is one more.
        if self.restarts.len() == MOST_RESTARTS {
            self.restarts.remove(0);
        }
        let steps_lost = newest.and_then(|known| after.step?.checked_sub(known.step));
        self.restarts.push(Restart {
            cause: self.cause.take(),
            snapshot: newest.map(|known| known.snapshot.clone()),
            steps_lost,
            delay_seconds: delay.as_secs_f64(),
        });
    }

    /// Notes what rank 0 tells. Says whether that is worth keeping at once.
    pub(crate) fn note(&mut self, event: &Event) -> bool {
        match event {
            Event::Step { step, .. } => self.reached(*step),
            Event::Resumed { snapshot, step, .. } => {
                self.snapshot.get_or_insert_with(|| Saved { snapshot: snapshot.clone(), step: *step, metric: None });
                self.reached(*step)
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

    fn reached(&mut self, step: u64) -> bool {
        // So that of a run that is lost, the last step is known about.
        let first = self.last_step.replace(step).is_none();
        first || self.kept.get().is_none_or(|kept| kept.elapsed() > KEEP_EVERY)
    }

    /// The record in the run's folder.
    pub fn path(&self) -> PathBuf {
        self.run_dir.join(RECORD_FILE)
    }

    /// Keeps the record as it is in the run's folder, for `cargo ddp runs`: a convenience, whose failure is no failure of
    /// the job.
    pub fn keep(&self) {
        self.kept.set(Some(Instant::now()));
        let kept = self.to_text().and_then(|text| write_run_file(&self.path(), &text));
        if let Err(err) = kept {
            tracing::debug!(%err, "the record is not kept");
        }
    }

    /// The record of a job that waits for its nodes, kept in its folder.
    pub(crate) fn keep_waiting(plan: &LaunchPlan) {
        Self { outcome: Outcome::Waiting, ..Self::new(plan) }.keep();
    }

    /// The record of a job that could not be started, kept in its folder.
    pub fn keep_refused(plan: &LaunchPlan, err: &crate::Error) {
        let outcome = match err {
            crate::Error::Rendezvous { .. } => Outcome::NodeLost,
            _ => Outcome::Failed,
        };
        let (exit_code, error) = (err.exit_code(), Some(err.to_string()));
        Self { outcome, exit_code, ended: now(), error, ..Self::new(plan) }.keep();
    }

    /// Processes that the kernel killed for want of memory since the job started; `None` where it does not say.
    pub(crate) fn out_of_memory(&self) -> Option<u64> {
        Some(oom_kills()?.saturating_sub(self.oom_kills?))
    }

    /// Adds how it ended, and keeps it.
    pub fn conclude(&mut self, verdict: &Verdict) {
        self.exit_code = verdict.exit_code();
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

    fn to_text(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(self)?)
    }

    /// Writes the record where the user wants it.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, to: &Output) -> io::Result<()> {
        to.write_within(&self.to_text()?, REPORT_PATIENCE)
    }

    /// Under a launcher of its own kind (a scheduler's agent) this one leaves its cause where it was told to.
    pub fn pass_on(&self) {
        let Some(path) = std::env::var_os(env::ERROR_FILE).map(PathBuf::from) else { return };
        let Some(cause) = &self.cause else { return };
        let text = file::read(&self.error_file, file::SMALL).or_else(|_| {
            if path.is_file() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let how = cause.signal.clone().or_else(|| cause.exit_code.map(|code| format!("exit code {code}")));
            let message = format!("rank {} ended with {}", cause.rank, how.unwrap_or_default());
            let error = ErrorFile::new(message, cause.stderr.join("\n")).of_rank(cause.rank);
            Ok(serde_json::to_vec(&error)?)
        });
        let written = text.and_then(|text| Output::open(&path)?.write_within(&text, REPORT_PATIENCE));
        if let Err(err) = written {
            tracing::debug!(%err, "the cause is not passed on");
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
    fn only_the_last_restarts_are_kept() {
        let mut record = Record::default();
        for pid in 0..3000 {
            record.cause = Some(Cause { pid, ..Cause::default() });
            record.restarted(&Failure::example(), None, Duration::ZERO);
        }
        let pids: Vec<u32> = record.restarts.iter().map(|restart| restart.cause.as_ref().unwrap().pid).collect();
        assert_eq!(pids, (2000..3000).collect::<Vec<_>>());
    }
}
