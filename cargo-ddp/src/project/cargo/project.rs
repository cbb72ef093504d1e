//! A project, and what cargo is to build and run in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use cargo_metadata::{CargoOpt, Metadata, MetadataCommand};

use super::config::{BuildConfig, BuildTarget};
use super::program::program;
use super::runner;
use crate::{Error, Result};

/// A cargo project: the workspace that a manifest belongs to.
#[derive(Clone, Debug)]
pub struct Project {
    /// The workspace's folder, which has `.cargo/config.toml` and `.ddp/`.
    pub root: PathBuf,
    /// The folder for what is built.
    pub target: PathBuf,
    /// The folder for intermediate files (`build.build-dir`): the same, unless it is configured.
    pub build: PathBuf,
    pub(super) metadata: Metadata,
}

/// What to build: cargo's own selection flags.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// `--manifest-path`.
    pub manifest_path: Option<PathBuf>,
    /// All others, as cargo takes them.
    pub flags: Vec<OsString>,
    /// `--bin` or `--example`, which are among `flags`: what to run.
    pub target: Option<String>,
    /// `target` is an example.
    pub example: bool,
    /// `-p`, which is among `flags`.
    pub package: Option<String>,
    /// `--target`, which is among `flags`.
    pub platform: Option<String>,
    /// `--profile` or `--release`, which is among `flags`.
    pub profile: Option<String>,
    /// `--target-dir` is among `flags`.
    pub has_target_dir: bool,
    /// cargo prints its warnings and errors only.
    pub quiet: bool,
}

impl Project {
    /// The project that the manifest (or the current folder) belongs to.
    ///
    /// # Errors
    /// [`Error::NoProject`] with cargo's reason.
    pub fn find(manifest_path: Option<&Path>) -> Result<Self> {
        let mut command = MetadataCommand::new();
        command.cargo_path(program()).no_deps().features(CargoOpt::AllFeatures);
        if let Some(path) = manifest_path {
            command.manifest_path(path);
        }
        let metadata = command.exec().map_err(|err| match err {
            cargo_metadata::Error::CargoMetadata { stderr } => refused(manifest_path, &stderr),
            cargo_metadata::Error::Io(source) => Error::Start { program: program().into(), source },
            other => Error::BadProject(other.to_string()),
        })?;
        let root = metadata.workspace_root.clone().into_std_path_buf();
        let target = metadata.target_directory.clone().into_std_path_buf();
        let build = metadata.build_directory.clone().map_or_else(|| target.clone(), |path| path.into_std_path_buf());
        Ok(Self { root, target, build, metadata })
    }

    /// Whether cargo's ID of a package is that of a workspace member.
    pub(in crate::project) fn has_member(&self, id: &str) -> bool {
        self.metadata.workspace_members.iter().any(|member| member.repr == id)
    }

    /// The folders that have a `debug` and a `release`: `target/`, and those below it for platforms in cargo's
    /// configuration.
    pub fn output_folders(&self) -> Vec<PathBuf> {
        let platforms = BuildConfig::read(&self.root, |name| std::env::var_os(name)).unwrap_or_default().targets;
        let below = platforms.iter().map(|platform| self.target.join(platform.folder()));
        std::iter::once(self.target.clone()).chain(below).collect()
    }

    /// The names of the workspace's binaries.
    pub fn binaries(&self) -> Vec<String> {
        let targets = self.metadata.workspace_packages().into_iter().flat_map(|package| &package.targets);
        targets.filter(|target| target.is_bin()).map(|target| target.name.clone()).collect()
    }

    /// Checks that the selection is one program, before anything is built.
    ///
    /// # Errors
    /// [`Error::BadOption`] for a pattern, [`Error::NoBinary`], [`Error::ManyBinaries`] and [`Error::ManyPlatforms`].
    pub fn check(&self, selection: &Selection) -> Result<()> {
        selection.check_names()?;
        self.choose(selection)?;
        let here = std::env::current_dir().unwrap_or_default();
        // cargo reports invalid files when it builds.
        let platforms = BuildConfig::read(&here, |name| std::env::var_os(name)).unwrap_or_default().targets;
        if selection.platform.is_none() && platforms.len() > 1 {
            let names: Vec<_> = platforms.into_iter().map(|platform| platform.name).collect();
            return Err(Error::ManyPlatforms(names.join(", ")));
        }
        Ok(())
    }

    /// What cargo runs the selection with: a program and its first arguments, or nothing.
    ///
    /// # Errors
    /// [`Error::BadManifest`] when several runners apply.
    pub fn runner(&self, selection: &Selection) -> Result<Vec<OsString>> {
        let here = std::env::current_dir().unwrap_or_default();
        let variable = |name: &str| std::env::var_os(name);
        let config = BuildConfig::read(&here, variable).unwrap_or_default();
        let asked = selection.platform.as_ref().filter(|name| *name != "host-tuple");
        let asked = asked.map(|name| BuildTarget { name: name.clone(), source: PathBuf::new() });
        let platform = match &selection.platform {
            Some(_) => asked,
            None => config.targets.into_iter().next(),
        };
        runner::choose(&config.runners, platform.map(|platform| platform.folder()).as_deref(), &here, variable)
    }
}

/// Why cargo gives no metadata: no project, or one that it can't read.
fn refused(manifest_path: Option<&Path>, stderr: &str) -> Error {
    let here = std::env::current_dir().unwrap_or_default();
    let exists = match manifest_path {
        Some(path) => path.exists(),
        None => here.ancestors().any(|folder| folder.join("Cargo.toml").symlink_metadata().is_ok()),
    };
    if exists { Error::BadProject(whole_error(stderr)) } else { Error::NoProject(cargos_error(stderr)) }
}

/// cargo's complete error: its place, and the lines around it.
fn whole_error(stderr: &str) -> String {
    let text = stderr.trim();
    let start = text.find("error: ").map_or(0, |at| at + "error: ".len());
    text[start..].to_owned()
}

/// cargo's `error: …` line without the word, and its last cause.
fn cargos_error(stderr: &str) -> String {
    let lines: Vec<_> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = lines.iter().find_map(|line| line.strip_prefix("error: ")).unwrap_or(stderr.trim());
    match lines.iter().rposition(|line| *line == "Caused by:").and_then(|at| lines.get(at + 1)) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_owned(),
    }
}
