//! The user's jobs, and which of them `stop`, `attach` and `diff` consider when none is named: those of the project around
//! the current folder.

use std::path::{Path, PathBuf};

use ddp_contract::job::Job;

use crate::launch::{Registry, belongs_to};
use crate::machine::cache;
use crate::project::cargo::Project;
use crate::{Error, Result};

/// The list of this user's jobs.
pub(super) fn registry() -> Registry {
    Registry::in_cache(cache::dir().ok().as_deref())
}

/// The jobs to choose from.
pub(super) struct Candidates {
    /// Those that were asked for.
    pub(super) jobs: Vec<Job>,
    /// The runs of other projects that were left out.
    pub(super) others: Vec<Job>,
}

/// The jobs that `run` (a name or a launcher's process id) means, in whatever project; without it, those of this project, or
/// with `all`, all.
pub(super) fn candidates(run: Option<&str>, all: bool, jobs: Vec<Job>) -> Result<Candidates> {
    if let Some(run) = run {
        let jobs = jobs.into_iter().filter(|job| job.run == *run || job.pid.to_string() == *run).collect();
        return Ok(Candidates { jobs, others: vec![] });
    }
    if all {
        return Ok(Candidates { jobs, others: vec![] });
    }
    let place = Place::here()?;
    let (jobs, others) = jobs.into_iter().partition(|job| place.has(job));
    Ok(Candidates { jobs, others })
}

/// The running job that is meant: the named one, or the only one.
pub(super) fn only(run: Option<&str>, all: bool) -> Result<Job> {
    let running = registry().running();
    let names_of_running = names(&running);
    let mut found = candidates(run, all, running)?;
    match found.jobs.len() {
        0 => Err(not_here(run, names_of_running, &found.others)),
        1 => Ok(found.jobs.swap_remove(0)),
        _ => Err(Error::ManyRuns(names(&found.jobs).join(", "))),
    }
}

/// The error for a job that does not run here; it may run elsewhere.
pub(super) fn not_here(run: Option<&str>, running: Vec<String>, others: &[Job]) -> Error {
    if !others.is_empty() {
        return Error::NoRunInProject(names(others));
    }
    let remote = registry().remote_jobs();
    let found: Vec<_> = match run {
        Some(run) => remote.iter().filter(|job| job.run.as_deref() == Some(run)).collect(),
        None if running.is_empty() => remote.iter().collect(),
        None => vec![],
    };
    if found.is_empty() {
        return Error::NoRun { run: run.unwrap_or_default().to_owned(), running };
    }
    let places: Vec<_> = found.iter().map(ToString::to_string).collect();
    Error::RunsElsewhere(format!("not running on this machine: {}", places.join(", ")))
}

/// Where jobs are looked for.
struct Place {
    /// The workspace's root; without a project, the current folder.
    root: PathBuf,
    in_project: bool,
}

impl Place {
    fn here() -> Result<Self> {
        let here = std::env::current_dir().map_err(Error::system("can't find the current folder"))?;
        // A project that cargo can't read has jobs, too.
        let project = Project::find(None).ok();
        let in_project = project.is_some();
        Ok(Self { root: project.map_or(here, |project| project.root), in_project })
    }

    /// Whether the job is of this project: it trains it, was started in it, or has its runs in it. Without a project, also one
    /// that was started in a folder above.
    fn has(&self, job: &Job) -> bool {
        let within = |path: &Path| path.starts_with(&self.root);
        belongs_to(job, &self.root)
            || within(&job.folder)
            || within(&job.run_dir)
            || !self.in_project && self.root.starts_with(&job.folder)
    }
}

/// The names of the runs.
pub(super) fn names(jobs: &[Job]) -> Vec<String> {
    jobs.iter().map(|job| job.run.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(folder: &str, run_dir: &str) -> Job {
        let (folder, run_dir) = (folder.into(), run_dir.into());
        Job { run: "run-1-2".into(), pid: 2, nproc: 1, folder, run_dir, ..Job::default() }
    }

    #[test]
    fn project_scope_has_jobs_started_in_the_project_or_logging_to_it() {
        let project = Place { root: "/w/a".into(), in_project: true };
        assert!(project.has(&job("/w/a", "/w/a/runs/1")) && project.has(&job("/w/a/src", "/elsewhere/1")));
        assert!(project.has(&job("/home", "/w/a/runs/1")));
        assert!(!project.has(&job("/w", "/w/runs/1")) && !project.has(&job("/w/ab", "/w/ab/runs/1")));
    }

    #[test]
    fn folder_scope_has_jobs_of_the_folder_its_parents_and_subfolders() {
        let folder = Place { root: "/w/a".into(), in_project: false };
        assert!(
            folder.has(&job("/w/a", "/x/1")) && folder.has(&job("/w", "/x/1")) && folder.has(&job("/w/a/b", "/x/1"))
        );
        assert!(!folder.has(&job("/w/b", "/x/1")));
    }

    #[test]
    fn job_named_explicitly_is_found_in_every_project() {
        let jobs = || vec![job("/nowhere", "/nowhere/runs/1")];
        for name in ["run-1-2", "2"] {
            assert_eq!(candidates(Some(name), false, jobs()).unwrap().jobs.len(), 1);
        }
        let found = candidates(None, false, jobs()).unwrap();
        assert_eq!((found.jobs.len(), found.others.len()), (0, 1));
        assert_eq!(candidates(None, true, jobs()).unwrap().jobs.len(), 1);
    }
}
