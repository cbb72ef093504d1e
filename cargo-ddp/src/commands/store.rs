//! Where `runs` and `plot` look for runs, and where a project keeps them.

use std::path::PathBuf;

use crate::launch::Store;
use crate::project::cargo::Project;
use crate::{Error, Result};

/// `log_dir`, or all places where `run` and `launch` keep runs here.
pub(super) fn store(log_dir: Option<PathBuf>) -> Result<Store> {
    if let Some(dir) = log_dir {
        return Ok(Store::only(dir));
    }
    match Project::find(None) {
        // `launch` knows no project.
        Ok(project) => Ok(of_project(&project, project.log_dirs()).and(Store::here())),
        Err(Error::NoProject(_)) => Ok(Store::here()),
        Err(err) => Err(err),
    }
}

/// Where runs of a project are: in these folders, and in the usual places. New ones go to the first.
pub(super) fn of_project(project: &Project, log_dirs: Vec<PathBuf>) -> Store {
    Store::of_project(&project.root, &project.target, log_dirs)
}
