//! Commands that start jobs, list and stop them.

use std::ffi::OsString;

use clap::Args;

use super::Build;
use crate::config::LaunchFlags;

/// `cargo ddp run`
#[derive(Args, Debug)]
pub struct Run {
    /// How to launch it.
    #[command(flatten)]
    pub options: LaunchFlags,
    /// Use the settings in [package.metadata.ddp.preset.NAME] of Cargo.toml, over those in [package.metadata.ddp] [env:
    /// DDP_PRESET]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// What to build.
    #[command(flatten)]
    pub build: Build,
    /// Arguments for the program
    #[arg(last = true)]
    pub args: Vec<OsString>,
}

/// `cargo ddp build`
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// What to build.
    #[command(flatten)]
    pub build: Build,
}

/// `cargo ddp attach`
#[derive(Args, Debug)]
pub struct Attach {
    /// The run, as `cargo ddp ps` names it [default: the one that was chosen, or the only running job of this project]
    pub run: Option<String>,
    /// Consider the jobs of all projects, not only of the one around the current folder
    #[arg(long, conflicts_with = "run")]
    pub all: bool,
    /// Ask which one, if several are running, for the next `attach` in this project; a launch configuration's task does so
    #[arg(long, conflicts_with = "run")]
    pub choose: bool,
}

/// `cargo ddp launch`
#[derive(Args, Debug)]
pub struct Launch {
    /// How to launch it.
    #[command(flatten)]
    pub options: LaunchFlags,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

/// `cargo ddp gpus`
#[derive(Args, Debug)]
pub struct GpusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cargo ddp ps`
#[derive(Args, Debug)]
pub struct Ps {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cargo ddp stop`
#[derive(Args, Debug)]
pub struct Stop {
    /// The run, as `cargo ddp ps` names it [default: the only running job of this project]
    pub run: Option<String>,
    /// Consider the jobs of all projects, not only of the one around the current folder
    #[arg(long, conflicts_with = "run")]
    pub all: bool,
    /// Kill its workers immediately
    #[arg(long)]
    pub now: bool,
}
