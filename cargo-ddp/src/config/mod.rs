//! How a job is launched, put together from every place that may say it. The first one that does wins:
//!
//! | | for example |
//! |---|---|
//! | a flag | `--max-restarts 5`, `--no-quiet` |
//! | an environment variable | `DDP_MAX_RESTARTS=5`, `DDP_QUIET=0` |
//! | a preset, chosen by `--preset` or `DDP_PRESET` | `[package.metadata.ddp.preset.cluster]` |
//! | the package's Cargo.toml | `[package.metadata.ddp]` |
//! | the workspace's Cargo.toml | `[workspace.metadata.ddp]` |
//! | the default | where the option is used |
//!
//! All of it follows from the fields of [`LaunchOptions`].

mod flags;
mod layer;
mod manifest;
mod options;
mod variables;

use std::ffi::OsString;

pub use flags::LaunchFlags;
pub use options::{LaunchOptions, Seconds};
pub(crate) use variables::names as variables;

use layer::{Layer, Source};

use crate::project::cargo::SettingsTables;
use crate::{Error, Result};

/// The launch options of one job, and where each comes from.
#[derive(Clone, Debug)]
pub(crate) struct Combined {
    /// The options.
    pub(crate) options: LaunchOptions,
    layer: Layer,
}

impl Combined {
    /// Of a job of a package.
    ///
    /// # Errors
    /// [`Error::BadSetting`] for what is wrong in the environment or in Cargo.toml.
    pub(crate) fn of_project(flags: &LaunchFlags, preset: Option<&str>, tables: &SettingsTables<'_>) -> Result<Self> {
        Self::new(flags, preset, Some(tables), |name| std::env::var_os(name))
    }

    /// Of a job without a project.
    ///
    /// # Errors
    /// [`Error::BadSetting`] for what is wrong in the environment.
    pub(crate) fn of_flags(flags: &LaunchFlags) -> Result<Self> {
        Self::new(flags, None, None, |name| std::env::var_os(name))
    }

    fn new(
        flags: &LaunchFlags,
        preset: Option<&str>,
        tables: Option<&SettingsTables<'_>>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let from_env = || variable(variables::PRESET_VARIABLE)?.into_string().ok().filter(|name| !name.is_empty());
        let preset = preset.map(str::to_owned).or_else(from_env);
        let below = tables.map(|tables| manifest::read(tables, preset.as_deref())).transpose()?.unwrap_or_default();
        let mut layer = flags.layer.clone().over(variables::read(&variable)?).over(below);
        variables::drop_unused_secret_file(&mut layer, &variable);
        Ok(Self { options: layer.options()?, layer })
    }

    /// Whether the option's value is from a flag or an environment variable.
    pub(crate) fn is_of_this_job(&self, option: &str) -> bool {
        matches!(self.layer.source(option), Some(Source::Flag | Source::Variable(_)))
    }

    /// Whether the option's value is from Cargo.toml.
    pub(crate) fn is_from_manifest(&self, option: &str) -> bool {
        matches!(self.layer.source(option), Some(Source::Manifest(_)))
    }

    /// An error about an option's value, with the place that the value comes from.
    pub(crate) fn locate(&self, err: Error) -> Error {
        let (option, problem) = match &err {
            Error::BadOption { option, problem } => (*option, problem.clone()),
            Error::BadGpuList { list, problem } => ("gpus", format!("invalid value `{list}`: {problem}")),
            _ => return err,
        };
        match self.layer.source(option) {
            Some(source @ (Source::Variable(_) | Source::Manifest(_))) => source.error(option, problem),
            _ => err,
        }
    }
}

/// What Cargo.toml says about the jobs of a package, whatever flags and the environment say.
///
/// # Errors
/// [`Error::BadSetting`].
pub(crate) fn of_package(tables: &SettingsTables<'_>) -> Result<LaunchOptions> {
    manifest::read(tables, None)?.options()
}

#[cfg(test)]
mod tests;
