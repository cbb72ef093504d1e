//! Where cargo puts what an editor's task builds: the task runs at the workspace's root, with the editor's variables.

use std::path::{Path, PathBuf};

use super::target_folder;
use crate::Result;
use crate::project::cargo::{BuildConfig, TARGET_DIR_VARIABLES, host};

/// Where cargo builds, as configurations and tasks name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The folder, absolute.
    pub folder: PathBuf,
    /// The same from the workspace on: `${workspaceFolder}/target`.
    pub target: String,
    /// What `--target` gets: the platform of `build.target`, so that a task builds what the configuration starts wherever
    /// it runs.
    pub platform: Option<String>,
    /// What the user should know about the choice.
    pub note: Option<String>,
}

impl Place {
    /// Of a workspace in `root`, which may not exist yet. Variables that name a folder are left out: a colleague's clone
    /// has others.
    ///
    /// # Errors
    /// As [`BuildConfig::read`].
    pub fn read(root: &Path) -> Result<Self> {
        Self::from(root, |name| (!TARGET_DIR_VARIABLES.contains(&name)).then(|| std::env::var_os(name)).flatten())
    }

    /// The same, by cargo's files alone.
    ///
    /// # Errors
    /// As [`BuildConfig::read`].
    pub fn of_files(root: &Path) -> Result<Self> {
        Self::from(root, |name| (name == "CARGO_HOME").then(|| std::env::var_os(name)).flatten())
    }

    fn from(root: &Path, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self> {
        let config = BuildConfig::read(root, variable)?;
        let base = config.target_dir.unwrap_or_else(|| root.join("target"));
        let own = (config.targets.len() > 1).then(host).flatten();
        let platform = config.targets.iter().find(|target| Some(&target.name) == own.as_ref());
        let Some(platform) = platform.or(config.targets.first()) else {
            return Ok(Self { target: target_folder(root, &base), folder: base, platform: None, note: None });
        };
        let folder = base.join(platform.folder());
        // Of a file that describes a platform, the path from the workspace on.
        let name = Path::new(&platform.name);
        let name = name.strip_prefix(root).unwrap_or(name).to_string_lossy().into_owned();
        let source = platform.source.display();
        let note = match config.targets.len() {
            1 if platform.source.starts_with(root) => None,
            1 => Some(format!("{source} sets the target {name}: the configurations build for it")),
            count => Some(format!("{source} sets {count} targets: the configurations build for {name}")),
        };
        Ok(Self { target: target_folder(root, &folder), folder, platform: Some(name), note })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn place_has_a_folder_per_platform() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("ws");
        let place = |text: &str| {
            fs::create_dir_all(root.join(".cargo")).unwrap();
            fs::write(root.join(".cargo/config.toml"), text).unwrap();
            Place::from(&root, |name| (name == "CARGO_HOME").then(|| "/nowhere".into())).unwrap()
        };
        let plain = place("[build]\ntarget-dir = \"out\"\n");
        assert_eq!((plain.target.as_str(), plain.platform), ("${workspaceFolder}/out", None));
        let one = place("[build]\ntarget = \"a-b-c\"\n");
        assert_eq!((one.target.as_str(), one.platform.as_deref()), ("${workspaceFolder}/target/a-b-c", Some("a-b-c")));
        assert_eq!((one.folder, one.note), (root.join("target/a-b-c"), None));
        let file = place("[build]\ntarget = \"specs/chip.json\"\ntarget-dir = \"../shared\"\n");
        assert_eq!(file.target, "${workspaceFolder}/../shared/chip");
        assert_eq!(file.platform.as_deref(), Some("specs/chip.json"));
        let several = place("[build]\ntarget = [\"a-b-c\", \"host-tuple\"]\n");
        assert_eq!(several.platform, host());
        assert!(several.note.unwrap().contains("2 targets"));
    }
}
