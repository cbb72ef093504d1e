//! The jobs of this user that run on this machine, for `cargo ddp ps` and `cargo ddp stop`.
//!
//! A run's directory has a `run.json`, and a lock that the launcher holds as long as it lives, so that one that is gone
//! without a word is no job any more. The user's cache has a link to each such directory, whose name says which process on
//! which machine it is of: the cache may be shared by machines and containers (NFS, a mounted home), and only what belongs
//! to processes of this one is signaled or removed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::history::parse;
use super::rundir::{self, Lock};
use crate::launch::plan::LaunchPlan;
use crate::os::origin::{self, Origin};
use crate::os::private;
use crate::project::libtorch::cache_dir;

pub(crate) const RUN_FILE: &str = "run.json";

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
    #[serde(serialize_with = "ddp_contract::text::lossy")]
    pub folder: PathBuf,
    /// The folder of logs.
    #[serde(serialize_with = "ddp_contract::text::lossy")]
    pub run_dir: PathBuf,
    /// The first worker's rank: not 0 on the further ones of several nodes.
    #[serde(default)]
    pub first_rank: usize,
    /// The workers' process ids by rank, and the attempt they belong to. None while the launcher waits for other nodes.
    pub workers: Vec<u32>,
    /// The attempt in progress, from 0.
    pub attempt: u32,
    /// The launcher's process, with its machine. Earlier versions wrote none.
    #[serde(default)]
    pub origin: Option<Origin>,
}

impl Job {
    /// Of a launcher that has no workers yet.
    pub(crate) fn new(plan: &LaunchPlan, pid: u32) -> Self {
        Self {
            run: plan.run_id.clone(),
            pid,
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            nproc: plan.nproc,
            gpus: plan.gpus.clone(),
            command: plan.command(),
            folder: std::env::current_dir().unwrap_or_default(),
            run_dir: plan.run_dir.clone(),
            first_rank: plan.ranks().start,
            workers: vec![],
            attempt: 0,
            origin: Some(Origin::of(pid)),
        }
    }

    /// A descriptor of the launcher; `None` if it has ended, even if its process id belongs to another process by now.
    ///
    /// # Errors
    /// The system's.
    pub fn process(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        // After it was opened: if it is the launcher now, it was when its descriptor was made.
        Ok(self.is_alive().then_some(pidfd))
    }

    /// Whether the launcher lives. Only for jobs of this machine and container.
    fn is_alive(&self) -> bool {
        match &self.origin {
            Some(origin) => origin.pid == self.pid && origin.is_alive(),
            // A process that started later has its id by now; one of another container is another program.
            None => {
                let program = fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap_or_default();
                let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name.starts_with("cargo-ddp") && origin::started(self.pid).is_some_and(|time| time <= self.started + 5)
            }
        }
    }
}

/// A job of this user that runs on another machine or in another container, as far as is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Name of the run, if it can be read here.
    pub run: Option<String>,
    /// Where it runs: `on node7`, `in another container (trainer)`.
    pub place: String,
}

impl std::fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Somebody else wrote it.
        let run = self.run.as_deref().unwrap_or("a job").replace(char::is_control, "?");
        write!(f, "{run} {}", self.place)
    }
}

/// The entry of a job that runs. It ends with the launcher, however that ends.
pub(crate) struct Entry {
    path: PathBuf,
    link: Option<PathBuf>,
}

impl Entry {
    /// Writes the job down.
    pub(crate) fn new(job: &Job) -> io::Result<Self> {
        let path = job.run_dir.join(RUN_FILE);
        // A user without a cache has no list of jobs, but a job.
        let name = job.origin.as_ref().map(Origin::to_name);
        let link = cache_dir().ok().zip(name).map(|(cache, name)| cache.join("jobs").join(name));
        let entry = Self { path, link };
        entry.update(job)?;
        if let Some(link) = &entry.link {
            let _ = link.parent().map(private::create_dir_all);
            let _ = fs::remove_file(link);
            let _ = std::os::unix::fs::symlink(fs::canonicalize(&job.run_dir)?, link);
        }
        Ok(entry)
    }

    /// Replaces what is written.
    pub(crate) fn update(&self, job: &Job) -> io::Result<()> {
        rundir::write_run_file(&self.path, &serde_json::to_vec_pretty(job)?)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
        }
    }
}

/// All jobs of this user that run on this machine and in this container, oldest first. Their entries that are left of jobs
/// that are gone are removed.
pub fn running() -> Vec<Job> {
    let mut jobs: Vec<_> = entries().into_iter().filter_map(Result::ok).collect();
    jobs.sort_by_key(|job| (job.started, job.pid));
    jobs
}

/// The jobs of this user that run elsewhere, as far as is known here. They can be neither looked at nor signaled.
pub fn elsewhere() -> Vec<Elsewhere> {
    let mut jobs: Vec<_> = entries().into_iter().filter_map(Result::err).collect();
    jobs.sort_by(|a, b| (&a.run, &a.place).cmp(&(&b.run, &b.place)));
    jobs
}

fn entries() -> Vec<Result<Job, Elsewhere>> {
    let entries = cache_dir().map(|cache| cache.join("jobs")).map(fs::read_dir);
    let entries = entries.into_iter().flatten().flatten().flatten();
    entries.filter_map(|entry| read(&entry.path())).collect()
}

/// A job that runs here, or elsewhere.
fn read(link: &Path) -> Option<Result<Job, Elsewhere>> {
    let job: Option<Job> = parse(&link.join(RUN_FILE));
    let named = link.file_name().and_then(|name| Origin::from_name(name.to_str()?));
    let origin = job.as_ref().and_then(|job| job.origin.clone()).or(named);
    let remove = || {
        let _ = fs::remove_file(link);
        None
    };
    let elsewhere = |place: String| {
        let run = job.as_ref().map(|job| job.run.clone());
        Some(Err(Elsewhere { run, place }))
    };
    let lock = rundir::probe(link);
    let Some(origin) = origin else {
        // Of an earlier version, which did not say on which machine it runs.
        return match (lock, &job) {
            (Lock::Held, Some(job)) if job.is_alive() => Some(Ok(job.clone())),
            (Lock::Held, Some(_)) => elsewhere("on another machine or in another container".into()),
            (Lock::Free, _) if rundir::is_local(link) => remove(),
            _ => None,
        };
    };
    if origin.is_here() {
        return match lock {
            Lock::Free => remove(),
            _ if !origin.is_alive() => {
                if lock == Lock::Held {
                    None
                } else {
                    remove()
                }
            }
            // Its directory may be gone; then nothing is known of it.
            _ => job.map(Ok),
        };
    }
    match lock {
        Lock::Held if origin.is_of_this_boot() => elsewhere(format!("in another container ({})", origin.machine())),
        Lock::Held => elsewhere(format!("on {}", origin.machine())),
        // All locks of this kernel are seen here; and a machine that was restarted runs no earlier job.
        Lock::Free if !origin.is_of_other_machine() => remove(),
        // A file system of one machine has no locks of others. What is left of that machine is not ours to remove.
        Lock::Free if rundir::is_local(link) => None,
        Lock::Missing if !origin.is_of_this_boot() && !origin.is_of_other_machine() => remove(),
        _ => elsewhere(format!("on {}", origin.machine())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FlockOperation, flock};
    use std::fs::File;
    use std::os::unix::fs::symlink;

    fn job(run_dir: &Path, pid: u32, origin: Option<Origin>) -> Job {
        Job {
            run: format!("run-1-{pid}"),
            pid,
            started: u64::from(u32::MAX),
            nproc: 1,
            gpus: None,
            command: vec![],
            folder: "/".into(),
            run_dir: run_dir.into(),
            first_rank: 0,
            workers: vec![],
            attempt: 0,
            origin,
        }
    }

    // A path that is not UTF-8 has no JSON of its own: nothing of such a job was written.
    #[test]
    fn job_in_a_folder_that_is_not_utf8_is_written_down() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(OsStr::from_bytes(b"n\xff/1"));
        let mut job = job(path, 1, None);
        job.folder = path.into();
        let read: Job = serde_json::from_slice(&serde_json::to_vec(&job).unwrap()).unwrap();
        assert_eq!((read.run_dir.to_str(), read.folder.to_str()), (Some("n\u{fffd}/1"), Some("n\u{fffd}/1")));
        let record = super::super::record::Record { run_dir: path.into(), ..Default::default() };
        assert_eq!(record.to_json()["run_dir"], "n\u{fffd}/1");
    }

    /// The link to a run's directory, and its lock.
    fn entry(dir: &Path, name: &str, job: &Job) -> (PathBuf, File) {
        let (run_dir, link) = (&job.run_dir, dir.join(name));
        fs::create_dir_all(run_dir).unwrap();
        fs::write(run_dir.join(RUN_FILE), serde_json::to_vec(job).unwrap()).unwrap();
        let lock = File::create(run_dir.join(".lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        symlink(run_dir, &link).unwrap();
        (link, lock)
    }

    #[test]
    fn entries_of_this_machine_are_jobs_until_their_launcher_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let own = Origin::own();
        let mine = job(&dir.path().join("1"), own.pid, Some(own.clone()));
        let (link, lock) = entry(dir.path(), &own.to_name(), &mine);
        assert_eq!(read(&link), Some(Ok(mine.clone())));
        assert!(mine.process().unwrap().is_some());
        drop(lock);
        assert_eq!(read(&link), None);
        assert!(!link.is_symlink());
        // The same id, but another process.
        let recycled = Origin { start_time: own.start_time + 1, ..own };
        let gone = job(&dir.path().join("2"), recycled.pid, Some(recycled.clone()));
        let (link, _lock) = entry(dir.path(), &recycled.to_name(), &gone);
        assert_eq!(read(&link), None);
        assert!(gone.process().unwrap().is_none());
    }

    #[test]
    fn entries_of_other_machines_and_containers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let own = Origin::own();
        let container = Origin { pid_namespace: 1, host: "trainer".into(), ..own.clone() };
        let machine = Origin { boot_id: "another".into(), host: "node7".into(), ..own.clone() };
        let cases = [("1", container, "in another container (trainer)"), ("2", machine.clone(), "on node7")];
        for (name, origin, place) in cases {
            let job = job(&dir.path().join(name), own.pid, Some(origin.clone()));
            let (link, _lock) = entry(dir.path(), &origin.to_name(), &job);
            let Some(Err(elsewhere)) = read(&link) else { panic!("{name}") };
            assert_eq!(
                (elsewhere.run.as_deref(), &*elsewhere.place),
                (Some("run-1-".to_owned() + &own.pid.to_string()).as_deref(), place)
            );
            assert!(link.is_symlink());
        }
        // A directory that only the other machine has.
        let link = dir.path().join(machine.to_name());
        fs::remove_file(&link).unwrap();
        symlink("/nonexistent/runs/1", &link).unwrap();
        assert_eq!(read(&link), Some(Err(Elsewhere { run: None, place: "on node7".into() })));
        assert!(link.is_symlink());
        // Without a launcher, on a file system that only this machine has.
        let job = job(&dir.path().join("3"), own.pid, Some(machine.clone()));
        fs::remove_file(&link).unwrap();
        let (link, lock) = entry(dir.path(), &machine.to_name(), &job);
        drop(lock);
        if rundir::is_local(dir.path()) {
            assert_eq!(read(&link), None);
        }
        assert!(link.is_symlink());
    }

    #[test]
    fn entries_of_earlier_versions_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"run": "run-9-1", "pid": 1, "started": 1700000000, "nproc": 4, "gpus": null, "command": ["train"],
            "folder": "/", "run_dir": "/", "workers": [], "attempt": 2}"#;
        let old: Job = serde_json::from_str(text).unwrap();
        assert_eq!((old.origin.as_ref(), old.first_rank), (None, 0));
        // Process 1 is no launcher of this user: it runs elsewhere.
        let (link, lock) = entry(dir.path(), "1", &Job { run_dir: dir.path().join("9"), ..old.clone() });
        assert!(matches!(read(&link), Some(Err(_))));
        assert!(old.process().is_ok_and(|process| process.is_none()));
        drop(lock);
        assert_eq!(read(&link), None);
        assert_eq!(link.is_symlink(), !rundir::is_local(dir.path()));
    }
}
