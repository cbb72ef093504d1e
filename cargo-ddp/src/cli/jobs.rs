//! Commands that start jobs, list and stop them.

use std::ffi::OsString;

use clap::Args;

use super::Build;
use crate::config::{LaunchFlags, Seconds};

/// `cargo ddp run`
#[derive(Args, Debug)]
pub struct Run {
    /// How to launch it.
    #[command(flatten)]
    pub options: LaunchFlags,
    /// Use the preset [package.metadata.ddp.preset.NAME] in Cargo.toml, which overrides [package.metadata.ddp] [env:
    /// DDP_PRESET]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Go to step N of an earlier run: resume from its newest snapshot before that step, with its workers and arguments, and
    /// stop all ranks at the end of step N. The earlier run stays unchanged
    #[arg(long, value_name = "N", value_parser = step, help_heading = "Debugging")]
    pub at_step: Option<u64>,
    /// The run that --at-step means: a number, `latest`, or a folder [default: the newest run of the program]
    #[arg(long, value_name = "RUN", requires = "at_step", help_heading = "Debugging")]
    pub run: Option<String>,
    /// What to build.
    #[command(flatten)]
    pub build: Build,
    /// Arguments for the program [default with --at-step: those of the earlier run]
    #[arg(last = true)]
    pub args: Vec<OsString>,
}

fn step(text: &str) -> Result<u64, String> {
    match text.trim().parse() {
        Ok(step) if step > 0 => Ok(step),
        _ => Err("expected a step such as 1200; steps count from 1".into()),
    }
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
    /// Name of the run, as in `cargo ddp ps` [default: the chosen one, or the only running job of this project]
    pub run: Option<String>,
    /// Consider the jobs of all projects, not only of the current one
    #[arg(long, conflicts_with = "run")]
    pub all: bool,
    /// If several jobs are running, ask which one the next `attach` in this project uses (for a launch configuration's task)
    #[arg(long, conflicts_with = "run")]
    pub choose: bool,
}

/// `cargo ddp debug-adapter`
#[derive(Args, Debug)]
pub struct DebugAdapter {
    /// lldb-dap and its arguments
    #[arg(required = true, last = true, value_name = "LLDB_DAP")]
    pub command: Vec<OsString>,
}

/// `cargo ddp launch`
#[derive(Args, Debug)]
pub struct Launch {
    /// How to launch it.
    #[command(flatten)]
    pub options: LaunchFlags,
    /// Program and its arguments
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
    /// Name of the run, as in `cargo ddp ps` [default: the only running job of this project]
    pub run: Option<String>,
    /// Consider the jobs of all projects, not only of the current one
    #[arg(long, conflicts_with = "run")]
    pub all: bool,
    /// Kill the workers immediately
    #[arg(long)]
    pub now: bool,
}

/// `cargo ddp diff`
#[derive(Args, Debug)]
pub struct Diff {
    /// Name of the run, as in `cargo ddp ps` [default: the only running job of this project]
    pub run: Option<String>,
    /// Consider the jobs of all projects, not only of the current one
    #[arg(long, conflicts_with = "run")]
    pub all: bool,
    /// How long to wait for the next step
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub timeout: Seconds,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
