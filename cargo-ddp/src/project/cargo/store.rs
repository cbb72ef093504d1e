//! Where the runs of a project are.

use std::path::PathBuf;

use serde_json::Value;

use super::Project;
use crate::launch::Store;

impl Project {
    /// Where a job's runs go: to `log_dir`, or into the project.
    pub fn store(&self, log_dir: Option<PathBuf>) -> Store {
        Store::of_project(&self.root, &self.target, log_dir.into_iter().collect())
    }

    /// Where runs of the project may be: those of each package's settings, and the usual places.
    pub fn all_runs(&self) -> Store {
        let packages = self.metadata.workspace_packages();
        let chosen = packages.iter().filter_map(|package| self.log_dir_of(&package.metadata));
        Store::of_project(&self.root, &self.target, chosen.collect())
    }

    /// `log-dir` in a package's settings (its `package.metadata`), which is relative to the package.
    pub fn log_dir_of(&self, metadata: &Value) -> Option<PathBuf> {
        // An empty one is refused where a job starts.
        let chosen = metadata.get("ddp")?.get("log-dir")?.as_str().filter(|chosen| !chosen.is_empty())?;
        let packages = self.metadata.workspace_packages();
        let package = packages.into_iter().find(|package| std::ptr::eq(&package.metadata, metadata))?;
        Some(package.manifest_path.parent()?.as_std_path().join(chosen))
    }
}
