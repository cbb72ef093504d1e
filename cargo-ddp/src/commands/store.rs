//! Where `runs` and `plot` look for runs.

use std::path::PathBuf;

use crate::launch::Store;
use crate::project::cargo::Project;
use crate::{Error, Result};

/// Where a job of the project puts its run: in `log_dir`, or in the project.
pub(super) fn of_project(project: &Project, log_dir: Option<PathBuf>) -> Store {
    Store::of_project(&project.root, &project.target, log_dir.into_iter().collect())
}

/// `log_dir`, or all places where `run` and `launch` keep runs here.
pub(super) fn store(log_dir: Option<PathBuf>) -> Result<Store> {
    if let Some(dir) = log_dir {
        return Ok(Store::only(dir));
    }
    match Project::find(None) {
        // `launch` knows no project.
        Ok(project) => {
            let chosen = project.log_dirs();
            Ok(Store::of_project(&project.root, &project.target, chosen).and(Store::here()))
        }
        Err(Error::NoProject(_)) => Ok(Store::here()),
        Err(err) => Err(err),
    }
}
