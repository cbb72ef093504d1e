//! The jobs of this user that run on this machine, for `cargo ddp ps` and `cargo ddp stop`.
//!
//! A run's folder has a `run.json` that the launcher keeps locked as long as it lives, so that one that is gone without a
//! word is no job any more; the user's cache has a link to each such folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::private;
use crate::torch::cache_dir;

pub(super) const RUN_FILE: &str = "run.json";

/// What a launcher says about its job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Name of the run (`TORCHELASTIC_RUN_ID`).
    pub run: String,
    /// The launcher: signals go there.
    pub pid: u32,
    /// Seconds since 1970.
    pub started: u64,
    /// Number of workers.
    pub nproc: usize,
    /// Their GPUs.
    pub gpus: Option<Vec<String>>,
    /// The workers' program and its arguments.
    pub command: Vec<String>,
    /// Where it was started.
    pub folder: PathBuf,
    /// The folder of logs.
    pub run_dir: PathBuf,
    /// The first worker's rank: not 0 on the further ones of several nodes.
    #[serde(default)]
    pub first_rank: usize,
    /// The workers' process ids by rank, and the attempt they belong to.
    pub workers: Vec<u32>,
    /// The attempt in progress, from 0.
    pub attempt: u32,
}

/// The entry of a job that runs. It ends with the launcher, however that ends.
pub(super) struct Entry {
    path: PathBuf,
    link: Option<PathBuf>,
    _lock: File,
}

impl Entry {
    /// Writes the job down.
    pub(super) fn new(job: &Job) -> io::Result<Self> {
        let path = job.run_dir.join(RUN_FILE);
        let lock = private::open_lock(&job.run_dir.join(".lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        // A user without a cache has no list of jobs, but a job.
        let link = cache_dir().ok().map(|cache| cache.join("jobs").join(job.pid.to_string()));
        let entry = Self { path, link, _lock: lock };
        entry.update(job)?;
        if let Some(link) = &entry.link {
            let _ = link.parent().map(private::create_dir_all);
            let _ = fs::remove_file(link);
            let _ = std::os::unix::fs::symlink(fs::canonicalize(&job.run_dir)?, link);
        }
        Ok(entry)
    }

    /// Replaces what is written.
    pub(super) fn update(&self, job: &Job) -> io::Result<()> {
        let partial = self.path.with_extension("partial");
        private::create(&partial)?.write_all(&serde_json::to_vec_pretty(job)?)?;
        fs::rename(partial, &self.path)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
        }
    }
}

/// Whether the launcher of the run in this folder is alive.
pub(super) fn is_running(run_dir: &Path) -> bool {
    let Ok(lock) = File::open(run_dir.join(".lock")) else { return false };
    flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
}

/// All jobs of this user that run on this machine, oldest first. Entries of jobs that are gone are removed.
pub fn running() -> Vec<Job> {
    let Ok(entries) = cache_dir().map(|cache| cache.join("jobs")).map(fs::read_dir) else { return Vec::new() };
    let mut jobs = Vec::new();
    for link in entries.into_iter().flatten().flatten() {
        if !is_running(&link.path()) {
            let _ = fs::remove_file(link.path());
            continue;
        }
        let job = fs::read(link.path().join(RUN_FILE)).ok().and_then(|text| serde_json::from_slice::<Job>(&text).ok());
        jobs.extend(job);
    }
    jobs.sort_by_key(|job| (job.started, job.pid));
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_known_to_run_until_its_launcher_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_running(dir.path()));
        let lock = File::create(dir.path().join(".lock")).unwrap();
        assert!(!is_running(dir.path()));
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(is_running(dir.path()));
        drop(lock);
        assert!(!is_running(dir.path()));
    }
}
