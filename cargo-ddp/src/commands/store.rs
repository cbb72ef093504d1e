//! Where `runs` and `plot` look for runs.

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
        Ok(project) => Ok(project.all_runs().and(Store::here())),
        Err(Error::NoProject(_)) => Ok(Store::here()),
        Err(err) => Err(err),
    }
}
