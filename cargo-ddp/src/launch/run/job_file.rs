//! The record of a job that this process launches, kept up to date in `job.json`: for `--report`, `--json`, and the commands
//! that list jobs and runs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ddp_contract::job::{Cause, Consequence, FILE, Job, Outcome, Restart, Saved, Start, VERSION};
use ddp_contract::{ErrorFile, Event, file};

use super::files;
use crate::launch::outcome::{Exit, Failure, Known, Verdict, signal_name};
use crate::launch::plan::LaunchPlan;
use crate::os::output::Output;
use crate::os::{origin, proc};

/// How often to save steps alone.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// How long the reader of a FIFO may keep the launcher from ending.
const REPORT_PATIENCE: Duration = Duration::from_secs(10);
/// How many restarts are recorded.
const MOST_RESTARTS: usize = 1000;

/// A job and its file.
#[derive(Debug, Default)]
pub(crate) struct JobFile {
    pub(crate) job: Job,
    /// The kernel's count at the start.
    oom_kills: Option<u64>,
    /// The error file of the last failure.
    error_file: PathBuf,
    /// When the file was written last.
    saved: Option<Instant>,
}

impl JobFile {
    /// Of a job that has no workers yet, launched by the process `pid`. Nothing is written.
    pub(crate) fn new(plan: &LaunchPlan, pid: u32) -> Self {
        let job = Job {
            version: VERSION,
            run: plan.run_id.clone(),
            run_dir: plan.run_dir.clone(),
            project: plan.project.clone(),
            folder: plan.folder.clone(),
            command: plan.command(),
            nproc: plan.nproc,
            node_rank: plan.nodes.own,
            nnodes: plan.nodes.members.len(),
            world_size: plan.nodes.world_size(),
            first_rank: plan.ranks().start,
            gpus: plan.gpus.clone(),
            pid,
            origin: Some(origin::of_process(pid)),
            started: now(),
            at_step: plan.at_step,
            ..Job::default()
        };
        Self { job, oom_kills: proc::oom_kills(), ..Self::default() }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn try_save(&mut self) -> io::Result<()> {
        self.saved = Some(Instant::now());
        files::write(&self.job.run_dir.join(FILE), &to_text(&self.job)?)
    }

    /// Writes the file. A file that can't be written is no failure of the job.
    pub(crate) fn save(&mut self) {
        if let Err(err) = self.try_save() {
            tracing::debug!(%err, "can't write the job file");
        }
    }

    /// The workers of an attempt were started.
    pub(crate) fn started(&mut self, attempt: u32, pids: Vec<u32>) {
        (self.job.workers, self.job.attempt) = (pids, attempt);
        self.save();
    }

    /// A worker failed. Its cause stays until the next restart. Nothing is written.
    pub(crate) fn failed(&mut self, failure: &Failure, plan: &LaunchPlan, stderr: Vec<String>) {
        self.error_file = plan.error_file(failure.rank, failure.attempt);
        self.job.cause = Some(cause(failure, plan, stderr));
    }

    /// All workers will be started again after this failure. Nothing is written.
    pub(crate) fn restarted(&mut self, after: &Failure, newest: Option<&Known>, delay: Duration) {
        // Another node decides when there is one more.
        if self.job.restarts.len() == MOST_RESTARTS {
            self.job.restarts.remove(0);
        }
        let steps_lost = newest.and_then(|known| after.step?.checked_sub(known.step));
        self.job.restarts.push(Restart {
            cause: self.job.cause.take(),
            snapshot: newest.map(|known| known.snapshot.clone()),
            steps_lost,
            delay_seconds: delay.as_secs_f64(),
        });
    }

    /// Records what the first rank reports. Returns whether the file should be written soon.
    pub(crate) fn update(&mut self, event: &Event) -> bool {
        match event {
            Event::Step { step, .. } => {
                let first = || Start { snapshot: None, step: step.saturating_sub(1) };
                self.job.start.get_or_insert_with(first);
                self.reached(*step)
            }
            Event::Resumed { snapshot, step, .. } => {
                let saved = || Saved { snapshot: snapshot.clone(), step: *step, metric: None };
                self.job.snapshot.get_or_insert_with(saved);
                let start = || Start { snapshot: Some(snapshot.clone()), step: *step };
                self.job.start.get_or_insert_with(start);
                self.reached(*step)
            }
            Event::SnapshotSaved { snapshot, step, metric, lower_is_better, .. } => {
                let saved = Saved { snapshot: snapshot.clone(), step: *step, metric: *metric };
                let best = self.job.best.as_ref().and_then(|best| best.metric);
                let better = match (*metric, best, *lower_is_better) {
                    (None, ..) => false,
                    // Of equals the newest, as it is the one that stays.
                    (Some(new), Some(old), Some(true)) => new <= old || old.is_nan(),
                    (Some(new), Some(old), Some(false)) => new >= old || old.is_nan(),
                    (Some(_), ..) => true,
                };
                if better {
                    self.job.best = Some(saved.clone());
                }
                self.job.snapshot = Some(saved);
                true
            }
            _ => false,
        }
    }

    fn reached(&mut self, step: u64) -> bool {
        // So that the last step of a run that is lost is known.
        let first = self.job.last_step.replace(step).is_none();
        first || self.saved.is_none_or(|saved| saved.elapsed() > SAVE_EVERY)
    }

    /// The launcher waits for the other nodes.
    pub(crate) fn waiting(mut self) {
        self.job.outcome = Outcome::Waiting;
        self.save();
    }

    /// The job could not be started.
    pub(crate) fn refused(mut self, err: &crate::Error) {
        self.job.outcome = match err {
            crate::Error::Rendezvous { .. } => Outcome::NodeLost,
            _ => Outcome::Failed,
        };
        (self.job.exit_code, self.job.error) = (err.exit_code(), Some(err.to_string()));
        self.job.ended = now();
        self.save();
    }

    /// The job has ended.
    pub(crate) fn conclude(&mut self, verdict: &Verdict) {
        self.job.exit_code = verdict.exit_code();
        self.job.ended = now();
        self.job.outcome = match verdict {
            Verdict::Done { .. } => Outcome::Done,
            Verdict::Preempted { .. } => Outcome::Preempted,
            Verdict::Failed(..) => Outcome::Failed,
            Verdict::Stopped(_) => Outcome::Stopped,
            Verdict::NodeLost(_) => Outcome::NodeLost,
        };
        self.save();
    }

    /// Processes that the kernel killed for lack of memory since the job started; `None` where it does not count them.
    pub(crate) fn out_of_memory(&self) -> Option<u64> {
        Some(proc::oom_kills()?.saturating_sub(self.oom_kills?))
    }

    /// Under an outer launcher (a scheduler's agent), writes the cause where that looks for it.
    pub(crate) fn forward_cause(&self, path: &Path) {
        let Some(cause) = &self.job.cause else { return };
        let text = file::read(&self.error_file, file::SMALL).or_else(|_| {
            if path.is_file() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let how = cause.signal.clone().or_else(|| cause.exit_code.map(|code| format!("exit code {code}")));
            let message = format!("rank {} ended with {}", cause.rank, how.unwrap_or_default());
            let error = ErrorFile::new(message, cause.stderr.join("\n")).of_rank(cause.rank);
            Ok(serde_json::to_vec(&error)?)
        });
        let written = text.and_then(|text| Output::open(path)?.write_within(&text, REPORT_PATIENCE));
        if let Err(err) = written {
            tracing::debug!(%err, "can't forward the cause");
        }
    }
}

/// Writes the record of a job where the user wants it.
///
/// # Errors
/// The system's.
pub fn write_report(job: &Job, to: &Output) -> io::Result<()> {
    to.write_within(&to_text(job)?, REPORT_PATIENCE)
}

fn to_text(job: &Job) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(job)?)
}

/// The cause that a failure has in the job file.
pub(crate) fn cause(failure: &Failure, plan: &LaunchPlan, stderr: Vec<String>) -> Cause {
    let error = ErrorFile::read(&plan.error_file(failure.rank, failure.attempt));
    let (exit_code, signal) = parts(failure.exit);
    let consequence = |(rank, exit): &(usize, Exit)| {
        let (exit_code, signal) = parts(*exit);
        Consequence { rank: *rank, exit_code, signal }
    };
    Cause {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_snapshot_follows_the_workers_metric_and_its_direction() {
        let saved = |step, metric, lower_is_better| Event::SnapshotSaved {
            snapshot: format!("step-{step:08}").into(),
            epoch: 0,
            step,
            metric,
            lower_is_better,
        };
        let best = |better, metrics: [Option<f64>; 4]| {
            let mut record = JobFile::default();
            for (step, metric) in (1..).zip(metrics) {
                assert!(record.update(&saved(step, metric, better)));
            }
            assert_eq!(record.job.snapshot.unwrap().step, 4);
            record.job.best.map(|best| best.step)
        };
        let metrics = [Some(f64::NAN), Some(0.5), Some(0.9), None];
        assert_eq!(best(Some(true), metrics), Some(2));
        assert_eq!(best(Some(false), metrics), Some(3));
        assert_eq!(best(None, [Some(1.0), Some(2.0), Some(1.5), None]), Some(3), "the newest, where none is better");
        assert_eq!(best(Some(true), [None; 4]), None);
    }

    #[test]
    fn start_is_that_of_the_first_attempt() {
        let step = |step| Event::Step {
            epoch: 0,
            step,
            loss: None,
            steps: None,
            samples: None,
            learning_rate: None,
            grad_norm: None,
            memory: None,
        };
        let resumed = |step| Event::Resumed { snapshot: format!("s/step-{step:08}").into(), epoch: 0, step };
        let start = |events: &[Event]| {
            let mut record = JobFile::default();
            for event in events {
                let _ = record.update(event);
            }
            record.job.start.map(|start| (start.snapshot, start.step))
        };
        assert_eq!(start(&[]), None);
        assert_eq!(start(&[step(1), step(2), resumed(2), step(3)]), Some((None, 0)));
        assert_eq!(start(&[resumed(40), step(41), resumed(45)]), Some((Some("s/step-00000040".into()), 40)));
    }

    #[test]
    fn restarts_beyond_the_limit_drop_the_oldest() {
        let mut record = JobFile::default();
        for pid in 0..3000 {
            record.job.cause = Some(Cause { pid, ..Cause::default() });
            record.restarted(&Failure::example(), None, Duration::ZERO);
        }
        let pids: Vec<u32> = record.job.restarts.iter().map(|restart| restart.cause.as_ref().unwrap().pid).collect();
        assert_eq!(pids, (2000..3000).collect::<Vec<_>>());
    }
}
