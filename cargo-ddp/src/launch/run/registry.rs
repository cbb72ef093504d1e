//! The jobs of this user that run on this machine, for `cargo ddp ps` and `cargo ddp stop`.
//!
//! A run's directory has a `job.json`, and a lock that the launcher holds as long as it lives, so that a launcher that was
//! killed has no job any more. The user's cache has a link to each such directory, whose name tells which process on
//! which machine it is of: the cache may be shared by machines and containers (NFS, a mounted home), and only what belongs
//! to processes of this one is signaled or removed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ddp_contract::job::Job;
use rustix::io::Errno;
use rustix::process::Pid;

use super::files;
use super::presence::{self, Lock};
use crate::os::{filesystem, origin, pidfd, private, proc};

/// A descriptor of the job's launcher; `None` if it has ended, even if its process id belongs to another process by now.
///
/// # Errors
/// The system's.
pub fn process_of(job: &Job) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(job.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let pidfd = match pidfd::open(pid) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    // After it was opened: if it is the launcher now, it was when its descriptor was made.
    Ok(is_alive(job).then_some(pidfd))
}

/// Whether the launcher lives. Only for jobs of this machine and container.
fn is_alive(job: &Job) -> bool {
    match &job.origin {
        Some(origin) => origin.pid == job.pid && origin::is_alive(origin),
        // A process that started later has its id by now; one of another container is another program.
        None => {
            let program = proc::program(job.pid);
            let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let started_before = |time| time as f64 <= job.started + 5.0;
            name.starts_with("cargo-ddp") && origin::started(job.pid).is_some_and(started_before)
        }
    }
}

/// A job of this user that runs on another machine or in another container, as far as is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteJob {
    /// Name of the run, if it can be read here.
    pub run: Option<String>,
    /// Where it runs: `on node7`, `in another container (trainer)`.
    pub place: String,
}

impl std::fmt::Display for RemoteJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Another program wrote it.
        let run = self.run.as_deref().unwrap_or("a job").replace(char::is_control, "?");
        write!(f, "{run} {}", self.place)
    }
}

/// The entry of a job that runs. It ends with the launcher, however that ends.
pub(crate) struct RegistryEntry {
    link: Option<PathBuf>,
}

impl RegistryEntry {
    /// Lists the job in `jobs_dir`.
    pub(crate) fn new(jobs_dir: Option<&Path>, job: &Job) -> io::Result<Self> {
        // A user without a cache has no list of jobs, but a job.
        let name = job.origin.as_ref().map(origin::to_name);
        let link = jobs_dir.zip(name).map(|(dir, name)| dir.join(name));
        let entry = Self { link };
        if let Some(link) = &entry.link {
            let _ = link.parent().map(private::create_dir_all);
            let _ = fs::remove_file(link);
            let _ = std::os::unix::fs::symlink(fs::canonicalize(&job.run_dir)?, link);
            tracing::debug!(link = %link.display(), "job listed");
        }
        Ok(entry)
    }
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
        }
    }
}

/// The list of this user's jobs.
#[derive(Clone, Debug)]
pub struct Registry {
    /// A user without a cache has no list.
    dir: Option<PathBuf>,
}

impl Registry {
    /// The list in the user's cache directory.
    pub fn in_cache(cache: Option<&Path>) -> Self {
        Self { dir: cache.map(|cache| cache.join("jobs")) }
    }

    /// All jobs of this user that run on this machine and in this container, oldest first. Entries that are left of jobs that
    /// are gone are removed.
    pub fn running(&self) -> Vec<Job> {
        let mut jobs: Vec<_> = self.entries().into_iter().filter_map(Result::ok).collect();
        jobs.sort_by(|a, b| a.started.total_cmp(&b.started).then(a.pid.cmp(&b.pid)));
        jobs
    }

    /// The jobs of this user that run elsewhere, as far as is known here. They can be neither looked at nor signaled.
    pub fn remote_jobs(&self) -> Vec<RemoteJob> {
        let mut jobs: Vec<_> = self.entries().into_iter().filter_map(Result::err).collect();
        jobs.sort_by(|a, b| (&a.run, &a.place).cmp(&(&b.run, &b.place)));
        jobs
    }

    fn entries(&self) -> Vec<Result<Job, RemoteJob>> {
        let entries = self.dir.as_ref().and_then(|dir| fs::read_dir(dir).ok());
        entries.into_iter().flatten().flatten().filter_map(|entry| read(&entry.path())).collect()
    }
}

/// Whether the job was started for this project, or for one inside of it. Jobs of earlier versions name no project: the
/// directory that they were started in counts.
pub fn belongs_to(job: &Job, project: &Path) -> bool {
    let of_job = if job.project.as_os_str().is_empty() { &job.folder } else { &job.project };
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(of_job).starts_with(real(project))
}

/// A job that runs here, or elsewhere.
fn read(link: &Path) -> Option<Result<Job, RemoteJob>> {
    let job = files::load(link);
    let named = link.file_name().and_then(|name| origin::from_name(name.to_str()?));
    let origin = job.as_ref().and_then(|job| job.origin.clone()).or(named);
    let remove = || {
        tracing::debug!(link = %link.display(), "removing the entry of a job that is gone");
        let _ = fs::remove_file(link);
        None
    };
    let remote = |place: String| {
        let run = job.as_ref().map(|job| job.run.clone());
        Some(Err(RemoteJob { run, place }))
    };
    let lock = presence::probe(link);
    let Some(origin) = origin else {
        // Of an earlier version, which did not record its machine.
        return match (lock, &job) {
            (Lock::Held, Some(job)) if is_alive(job) => Some(Ok(job.clone())),
            (Lock::Held, Some(_)) => remote("on another machine or in another container".into()),
            (Lock::Free, _) if filesystem::is_local(link) => remove(),
            _ => None,
        };
    };
    if origin::is_here(&origin) {
        return match lock {
            Lock::Free => remove(),
            _ if !origin::is_alive(&origin) => {
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
        Lock::Held if origin::is_of_this_boot(&origin) => {
            remote(format!("in another container ({})", origin::machine(&origin)))
        }
        Lock::Held => remote(format!("on {}", origin::machine(&origin))),
        // All locks of this kernel are seen here; and a machine that was restarted runs no earlier job.
        Lock::Free if !origin::is_of_other_machine(&origin) => remove(),
        // A file system of one machine has no locks of others. What is left of that machine is not ours to remove.
        Lock::Free if filesystem::is_local(link) => None,
        Lock::Missing if !origin::is_of_this_boot(&origin) && !origin::is_of_other_machine(&origin) => remove(),
        _ => remote(format!("on {}", origin::machine(&origin))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddp_contract::job::{FILE, Origin};
    use rustix::fs::{FlockOperation, flock};
    use std::fs::File;
    use std::os::unix::fs::symlink;

    fn job(run_dir: &Path, pid: u32, origin: Option<Origin>) -> Job {
        Job {
            run: format!("run-1-{pid}"),
            pid,
            started: f64::from(u32::MAX),
            nproc: 1,
            folder: "/".into(),
            run_dir: run_dir.into(),
            origin,
            ..Job::default()
        }
    }

    // JSON refuses a path that is not UTF-8: nothing of such a job was written.
    #[test]
    fn job_in_a_folder_that_is_not_utf8_is_written() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(OsStr::from_bytes(b"n\xff/1"));
        let mut job = job(path, 1, None);
        job.folder = path.into();
        let read: Job = serde_json::from_slice(&serde_json::to_vec(&job).unwrap()).unwrap();
        assert_eq!((read.run_dir.to_str(), read.folder.to_str()), (Some("n\u{fffd}/1"), Some("n\u{fffd}/1")));
    }

    /// The link to a run's directory, and its lock.
    fn entry(dir: &Path, name: &str, job: &Job) -> (PathBuf, File) {
        let (run_dir, link) = (&job.run_dir, dir.join(name));
        fs::create_dir_all(run_dir).unwrap();
        fs::write(run_dir.join(FILE), serde_json::to_vec(job).unwrap()).unwrap();
        let lock = File::create(run_dir.join(".lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        symlink(run_dir, &link).unwrap();
        (link, lock)
    }

    #[test]
    fn entries_of_this_machine_are_jobs_until_their_launcher_exits() {
        let dir = tempfile::tempdir().unwrap();
        let own = origin::own();
        let mine = job(&dir.path().join("1"), own.pid, Some(own.clone()));
        let (link, lock) = entry(dir.path(), &origin::to_name(&own), &mine);
        assert_eq!(read(&link), Some(Ok(mine.clone())));
        assert!(process_of(&mine).unwrap().is_some());
        drop(lock);
        assert_eq!(read(&link), None);
        assert!(!link.is_symlink());
        // The same id, but another process.
        let recycled = Origin { start_time: own.start_time + 1, ..own };
        let gone = job(&dir.path().join("2"), recycled.pid, Some(recycled.clone()));
        let (link, _lock) = entry(dir.path(), &origin::to_name(&recycled), &gone);
        assert_eq!(read(&link), None);
        assert!(process_of(&gone).unwrap().is_none());
    }

    #[test]
    fn entries_of_other_machines_and_containers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let own = origin::own();
        let container = Origin { pid_namespace: 1, host: "trainer".into(), ..own.clone() };
        let machine = Origin { boot_id: "another".into(), host: "node7".into(), ..own.clone() };
        let cases = [("1", container, "in another container (trainer)"), ("2", machine.clone(), "on node7")];
        for (name, origin, place) in cases {
            let job = job(&dir.path().join(name), own.pid, Some(origin.clone()));
            let (link, _lock) = entry(dir.path(), &origin::to_name(&origin), &job);
            let Some(Err(job)) = read(&link) else { panic!("{name}") };
            assert_eq!(
                (job.run.as_deref(), &*job.place),
                (Some("run-1-".to_owned() + &own.pid.to_string()).as_deref(), place)
            );
            assert!(link.is_symlink());
        }
        // A directory that only the other machine has.
        let link = dir.path().join(origin::to_name(&machine));
        fs::remove_file(&link).unwrap();
        symlink("/nonexistent/runs/1", &link).unwrap();
        assert_eq!(read(&link), Some(Err(RemoteJob { run: None, place: "on node7".into() })));
        assert!(link.is_symlink());
        // Without a launcher, on a file system that only this machine has.
        let job = job(&dir.path().join("3"), own.pid, Some(machine.clone()));
        fs::remove_file(&link).unwrap();
        let (link, lock) = entry(dir.path(), &origin::to_name(&machine), &job);
        drop(lock);
        if filesystem::is_local(dir.path()) {
            assert_eq!(read(&link), None);
        }
        assert!(link.is_symlink());
    }

    #[test]
    fn entries_of_earlier_versions_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"run": "run-9-1", "pid": 1, "started": 1700000000, "nproc": 4, "gpus": null, "command": ["train"],
            "folder": "/", "run_dir": "/", "workers": [], "attempt": 2}"#;
        fs::write(dir.path().join("run.json"), text).unwrap();
        let old = files::load(dir.path()).unwrap();
        assert_eq!((old.origin.as_ref(), old.first_rank, old.version), (None, 0, 0));
        // Process 1 is no launcher of this user: it runs elsewhere.
        let (link, lock) = entry(dir.path(), "1", &Job { run_dir: dir.path().join("9"), ..old.clone() });
        assert!(matches!(read(&link), Some(Err(_))));
        assert!(process_of(&old).is_ok_and(|process| process.is_none()));
        drop(lock);
        assert_eq!(read(&link), None);
        assert_eq!(link.is_symlink(), !filesystem::is_local(dir.path()));
    }

    #[test]
    fn jobs_belong_to_their_project_and_earlier_ones_to_where_they_were_started() {
        let dir = tempfile::tempdir().unwrap();
        let (project, member) = (dir.path().join("model"), dir.path().join("model/member"));
        fs::create_dir_all(&member).unwrap();
        symlink(&project, dir.path().join("link")).unwrap();
        let job = |project: &Path, folder: &Path| Job {
            project: project.into(),
            folder: folder.into(),
            ..job(Path::new("1"), 1, None)
        };
        let belongs = |job: &Job| belongs_to(job, &project);
        assert!(belongs(&job(&project, Path::new("/"))) && belongs(&job(&dir.path().join("link"), Path::new("/"))));
        assert!(belongs(&job(Path::new(""), &member)), "without a project");
        assert!(!belongs(&job(&dir.path().join("model-2"), &project)) && !belongs(&job(dir.path(), &project)));
    }

    #[test]
    fn registry_lists_running_jobs() {
        let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = origin::own();
        let mine = Job { project: dir.path().into(), ..job(&dir.path().join("1"), own.pid, Some(own.clone())) };
        fs::create_dir(cache.path().join("jobs")).unwrap();
        let (_, _lock) = entry(&cache.path().join("jobs"), &origin::to_name(&own), &mine);
        let registry = Registry::in_cache(Some(cache.path()));
        assert_eq!(registry.running(), [mine]);
        assert_eq!(Registry::in_cache(None).running(), []);
    }
}
