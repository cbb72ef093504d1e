//! cargo's configuration files, for the values that decide where it builds and how it runs. (`cargo config get` is unstable.)
//!
//! cargo reads `.cargo/config.toml` in the current folder and in each one above it, then the one in CARGO_HOME. The nearest
//! value wins, lists are joined, and variables win over all files:
//! <https://doc.rust-lang.org/cargo/reference/config.html#hierarchical-structure>

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::host::host;
use super::runner::Runner;
use crate::{Error, Result};

/// Variables that name the folder for what is built, the strongest first.
pub const TARGET_DIR_VARIABLES: [&str; 2] = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"];
/// The variable that names the platform to build for.
pub const TARGET_VARIABLE: &str = "CARGO_BUILD_TARGET";
/// `include` may go in circles.
const DEEPEST: usize = 16;

/// Where cargo builds when it runs in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildConfig {
    /// `build.target`: the platforms to build for; none: this machine, without a separate folder.
    pub targets: Vec<BuildTarget>,
    /// `build.target-dir`, absolute; without it, `target` at the workspace's root.
    pub target_dir: Option<PathBuf>,
    /// Of those for the same platforms, the nearest.
    pub(super) runners: Vec<Runner>,
}

/// A platform to build for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildTarget {
    /// What `--target` takes: a triple, or the path of a JSON file that describes one.
    pub name: String,
    /// Where it was set: a file, or a variable's name.
    pub source: PathBuf,
}

impl BuildTarget {
    /// The folder below `target/` that has what is built for it.
    pub fn folder(&self) -> String {
        match Path::new(&self.name).file_stem().filter(|_| self.name.ends_with(".json")) {
            Some(stem) => stem.to_string_lossy().into_owned(),
            None => self.name.clone(),
        }
    }
}

impl BuildConfig {
    /// As cargo reads it in `folder`, from files and from the variables that `variable` knows.
    ///
    /// # Errors
    /// [`Error::BadManifest`] for a file that is not TOML, [`Error::System`] for one that can't be read.
    pub fn read(folder: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let mut config = Self::default();
        let mut strings = false;
        let mut seen = Vec::new();
        let above = folder.ancestors().map(|folder| folder.join(".cargo"));
        for folder in above.chain(home(folder, &variable)) {
            let files = ["config", "config.toml"].map(|name| folder.join(name));
            if let Some(path) = files.into_iter().find(|path| path.is_file() && !seen.contains(path)) {
                config.add(&path, &mut strings, DEEPEST)?;
                seen.push(path);
            }
        }
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(target) = set(TARGET_VARIABLE) {
            let name = target.to_string_lossy().into_owned();
            config.targets = vec![BuildTarget { name, source: TARGET_VARIABLE.into() }];
        }
        if let Some(value) = TARGET_DIR_VARIABLES.into_iter().find_map(set) {
            config.target_dir = Some(folder.join(value));
        }
        for target in config.targets.iter_mut().filter(|target| target.name == "host-tuple") {
            target.name = host().unwrap_or_else(|| target.name.clone());
        }
        Ok(config)
    }

    /// Adds the settings of a file and of those that it includes, unless a nearer file has set them. `strings`: the targets so
    /// far are one string, which is not joined with others.
    fn add(&mut self, path: &Path, strings: &mut bool, depth: usize) -> Result<()> {
        let Some(depth) = depth.checked_sub(1) else { return Ok(()) };
        let text = fs::read_to_string(path).map_err(Error::system(format!("can't read {}", path.display())))?;
        let bad =
            |err: toml::de::Error| Error::BadManifest { path: path.to_owned(), problem: err.message().to_owned() };
        let file: Table = text.trim_start_matches('\u{feff}').parse().map_err(bad)?;
        let build = file.get("build").and_then(Value::as_table);
        // Paths in a file are relative to the folder that has `.cargo`.
        let base = path.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        if let Some(dir) = build.and_then(|build| build.get("target-dir")?.as_str())
            && self.target_dir.is_none()
        {
            self.target_dir = Some(base.join(dir));
        }
        for runner in Runner::all(&file, path, base) {
            if !self.runners.iter().any(|nearer| nearer.is_as(&runner)) {
                self.runners.push(runner);
            }
        }
        let target = |name: &str| {
            let name =
                if name.ends_with(".json") { base.join(name).to_string_lossy().into_owned() } else { name.to_owned() };
            BuildTarget { name, source: path.to_owned() }
        };
        match build.and_then(|build| build.get("target")) {
            Some(Value::String(name)) if self.targets.is_empty() => {
                self.targets.push(target(name));
                *strings = true;
            }
            Some(Value::Array(names)) if !*strings => {
                let more: Vec<_> = names.iter().filter_map(Value::as_str).map(target).collect();
                let is_new = |new: &BuildTarget| !self.targets.iter().any(|known| known.name == new.name);
                let more: Vec<_> = more.into_iter().filter(is_new).collect();
                self.targets.extend(more);
            }
            _ => {}
        }
        // The last file in `include` wins.
        for (name, optional) in included(&file).into_iter().rev() {
            let other = path.parent().unwrap_or(base).join(name);
            if !optional || other.is_file() {
                self.add(&other, strings, depth)?;
            }
        }
        Ok(())
    }
}

/// The paths in `include`, and whether each file may be missing.
pub(in crate::project) fn included(file: &Table) -> Vec<(String, bool)> {
    let one = |value: &Value| match value {
        Value::String(path) => Some((path.clone(), false)),
        Value::Table(table) => {
            let optional = table.get("optional").and_then(Value::as_bool).unwrap_or(false);
            Some((table.get("path")?.as_str()?.to_owned(), optional))
        }
        _ => None,
    };
    match file.get("include") {
        Some(Value::Array(all)) => all.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => vec![],
    }
}

/// cargo's own folder: CARGO_HOME, as seen from `folder`, or the usual one if that is not set, or empty.
pub fn home(folder: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = variable("CARGO_HOME").filter(|home| !home.is_empty());
    set.map(|home| folder.join(home)).or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(folder: &Path, home: &Path, variables: &[(&str, &str)]) -> BuildConfig {
        let variable = |name: &str| match variables.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => Some(OsString::from(value)),
            None => (name == "CARGO_HOME").then(|| home.as_os_str().to_owned()),
        };
        BuildConfig::read(folder, variable).unwrap()
    }

    fn names(config: &BuildConfig) -> Vec<String> {
        config.targets.iter().map(BuildTarget::folder).collect()
    }

    #[test]
    fn nearest_cargo_config_wins_and_variables_win_over_files() {
        let dir = tempfile::tempdir().unwrap();
        let (home, work) = (dir.path().join("home/.cargo"), dir.path().join("a/b"));
        fs::create_dir_all(&work).unwrap();
        write(home.join("config.toml"), "[build]\ntarget = \"far\"\ntarget-dir = \"shared\"\n");
        assert_eq!(names(&read(&work, &home, &[])), ["far"]);
        assert_eq!(read(&work, &home, &[]).target_dir, Some(dir.path().join("home/shared")));
        write(dir.path().join("a/.cargo/config.toml"), "build.target = \"near\"\n");
        write(work.join(".cargo/config.toml"), "include = [{ path = \"more.toml\", optional = true }]\n");
        assert_eq!(names(&read(&work, &home, &[])), ["near"]);
        write(work.join(".cargo/more.toml"), "[build]\ntarget = \"specs/chip.json\"\ntarget-dir = \"out\"\n");
        let config = read(&work, &home, &[]);
        assert_eq!((names(&config), config.target_dir), (vec!["chip".to_owned()], Some(work.join("out"))));
        let set = [("CARGO_BUILD_TARGET", "mine"), ("CARGO_TARGET_DIR", "/out"), ("CARGO_BUILD_TARGET_DIR", "/no")];
        let config = read(&work, &home, &set);
        assert_eq!((names(&config), config.target_dir), (vec!["mine".to_owned()], Some("/out".into())));
    }

    #[test]
    fn empty_cargo_home_counts_as_unset() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("config.toml"), "build.target = \"of-the-project\"\n");
        let config = read(dir.path(), dir.path(), &[("CARGO_HOME", "")]);
        assert!(!names(&config).contains(&"of-the-project".to_owned()), "{config:?}");
        assert_eq!(names(&read(dir.path(), dir.path(), &[("CARGO_HOME", ".")])), ["of-the-project"]);
    }

    #[test]
    fn lists_of_several_cargo_configs_are_joined() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        write(home.join("config.toml"), "[build]\ntarget = [\"one\", \"two\"]\n");
        let work = dir.path().join("work");
        write(work.join(".cargo/config"), "[build]\ntarget = [\"two\", \"three\"]\n");
        assert_eq!(names(&read(&work, &home, &[])), ["two", "three", "one"]);
        write(work.join(".cargo/config"), "[build]\ntarget = [\"host-tuple\"]\n");
        assert!(names(&read(&work, &home, &[]))[0].contains('-'));
        write(work.join(".cargo/config"), "[build\n");
        let err = BuildConfig::read(&work, |_| None).unwrap_err();
        assert!(matches!(&err, Error::BadManifest { path, .. } if path.ends_with(".cargo/config")), "{err}");
    }
}
