//! Jobs as earlier versions wrote them: `run.json` (what runs) and `report.json` (what happened), neither with a version.

use std::path::{Path, PathBuf};

use ddp_contract::job::{Cause, Job, Origin, Outcome, Restart, Saved};
use serde::Deserialize;

use crate::os::json;

pub(super) const RUN_FILE: &str = "run.json";
pub(super) const REPORT_FILE: &str = "report.json";

#[derive(Deserialize)]
pub(super) struct RunFile {
    run: String,
    pid: u32,
    started: u64,
    nproc: usize,
    gpus: Option<Vec<String>>,
    command: Vec<String>,
    folder: PathBuf,
    run_dir: PathBuf,
    #[serde(default)]
    first_rank: usize,
    workers: Vec<u32>,
    attempt: u32,
    #[serde(default)]
    origin: Option<Origin>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    outcome: Outcome,
    exit_code: u8,
    run: String,
    run_dir: PathBuf,
    nproc: usize,
    node_rank: usize,
    nnodes: usize,
    world_size: usize,
    gpus: Option<Vec<String>>,
    command: Vec<String>,
    started: f64,
    ended: f64,
    last_step: Option<u64>,
    snapshot: Option<Saved>,
    best: Option<Saved>,
    restarts: Vec<Restart>,
    cause: Option<Cause>,
    error: Option<String>,
}

/// The job of both files, or of the one that can be read.
pub(super) fn load(dir: &Path) -> Option<Job> {
    let run: Option<RunFile> = json::read(&dir.join(RUN_FILE));
    let report: Option<Report> = json::read(&dir.join(REPORT_FILE));
    if run.is_none() && report.is_none() {
        return None;
    }
    let mut job = report.map(Job::from).unwrap_or_default();
    if let Some(run) = run {
        if job.run.is_empty() {
            let RunFile { run, nproc, gpus, command, run_dir, started, .. } = &run;
            (job.run, job.run_dir, job.nproc) = (run.clone(), run_dir.clone(), *nproc);
            (job.gpus, job.command, job.started) = (gpus.clone(), command.clone(), *started as f64);
        }
        job.first_rank = run.first_rank;
        (job.pid, job.origin, job.folder) = (run.pid, run.origin, run.folder);
        (job.workers, job.attempt) = (run.workers, run.attempt);
    }
    Some(job)
}

impl From<Report> for Job {
    fn from(report: Report) -> Self {
        let Report { outcome, exit_code, run, run_dir, nproc, node_rank, nnodes, world_size, gpus, command, .. } =
            report;
        let Report { started, ended, last_step, snapshot, best, restarts, cause, error, .. } = report;
        Self {
            outcome,
            exit_code,
            run,
            run_dir,
            nproc,
            node_rank,
            nnodes,
            world_size,
            gpus,
            command,
            started,
            ended,
            last_step,
            snapshot,
            best,
            restarts,
            cause,
            error,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// As the launcher before `job.json` wrote them.
    const RUN: &str = include_str!("fixtures/run.json");
    const REPORT: &str = include_str!("fixtures/report.json");

    #[test]
    fn job_of_the_previous_format_is_read_from_both_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), None);
        fs::write(dir.path().join(RUN_FILE), RUN).unwrap();
        let job = load(dir.path()).unwrap();
        assert_eq!((job.version, job.outcome, job.started), (0, Outcome::Running, 1_700_000_000.0));
        assert_eq!((job.run.as_str(), job.pid, job.workers.len(), job.attempt), ("run-3-4711", 4711, 2, 1));
        fs::write(dir.path().join(REPORT_FILE), REPORT).unwrap();
        let job = load(dir.path()).unwrap();
        assert_eq!((job.outcome, job.exit_code, job.started), (Outcome::Failed, 3, 1_700_000_000.25));
        assert_eq!((job.last_step, job.snapshot.unwrap().step, job.restarts.len()), (Some(70), 64, 1));
        assert_eq!((job.cause.unwrap().message.as_deref(), job.origin.unwrap().pid), (Some("the loss is NaN"), 4711));
        fs::remove_file(dir.path().join(RUN_FILE)).unwrap();
        assert_eq!(load(dir.path()).unwrap().run, "run-3-4711");
    }
}
