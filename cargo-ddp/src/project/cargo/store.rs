//! Where the runs of a project are.

use std::path::PathBuf;

use serde_json::Value;

use super::Project;

impl Project {
    /// The directories of runs that the settings of the project's packages choose.
    pub fn log_dirs(&self) -> Vec<PathBuf> {
        let packages = self.metadata.workspace_packages();
        packages.iter().filter_map(|package| self.log_dir_of(&package.metadata)).collect()
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
