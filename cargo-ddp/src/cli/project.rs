//! Commands that make, set up and change projects.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::editor::vscode::Debugger;
use crate::project::libtorch::{Flavor, Request};

/// `cargo ddp demo`
#[derive(Args, Debug)]
pub struct Demo {
    /// Folder for the project
    #[arg(default_value = "ddp-demo")]
    pub path: PathBuf,
}

/// `cargo ddp new`
#[derive(Args, Debug)]
pub struct New {
    /// Folder to create
    #[arg(required_unless_present = "list")]
    pub path: Option<PathBuf>,
    /// Name of the package [default: name of the folder]
    #[arg(long)]
    pub name: Option<String>,
    /// Template to start from
    #[arg(long, default_value = "linear")]
    pub template: String,
    /// List the templates
    #[arg(long)]
    pub list: bool,
}

/// `cargo ddp init`
#[derive(Args, Debug)]
pub struct Init {
    /// Folder of the crate
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// Add the crate to the enclosing workspace
    #[arg(long)]
    pub workspace: bool,
}

/// `cargo ddp update`
#[derive(Args, Debug)]
pub struct Update {
    /// Folder of the project
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// Apply the changes without asking
    #[arg(short, long, conflicts_with = "check")]
    pub yes: bool,
    /// Show the changes without applying them; exits with code 1 if there are any
    #[arg(long)]
    pub check: bool,
}

/// `cargo ddp setup`
#[derive(Args, Debug)]
pub struct Setup {
    /// Use a libtorch without CUDA
    #[arg(long, conflicts_with = "cuda")]
    pub cpu: bool,
    /// Use a libtorch with CUDA and NCCL
    #[arg(long)]
    pub cuda: bool,
    /// Python whose torch to use, or whose pip fetches torch
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
}

impl Setup {
    /// As plain data.
    pub fn request(&self) -> Request {
        let flavor = match (self.cpu, self.cuda) {
            (true, _) => Some(Flavor::Cpu),
            (_, true) => Some(Flavor::Cuda),
            _ => None,
        };
        Request { flavor, python: self.python.clone() }
    }
}

/// `cargo ddp exec`
#[derive(Args, Debug)]
pub struct Exec {
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `cargo ddp vscode`
#[derive(Args, Debug)]
pub struct Vscode {
    /// Debugger to write configurations for: codelldb, lldb-dap or cppdbg [default: the one in use, else codelldb]
    #[arg(long, value_name = "NAME")]
    pub debugger: Option<Debugger>,
    /// Number of workers [default: as before, else as in Cargo.toml, else one per GPU, or 2]
    #[arg(long, value_name = "N", conflicts_with = "gpus", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub nproc: Option<u16>,
    /// GPUs to use, one worker each, as in `2,3` or `0-3`
    #[arg(long, value_name = "LIST")]
    pub gpus: Option<String>,
    /// Only these binaries or examples; the entries of others stay unchanged [default: all binaries]
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub bin: Vec<String>,
    /// Only this package
    #[arg(short, long, value_name = "NAME")]
    pub package: Option<String>,
    /// Add variants for optimized programs with debug info
    #[arg(short, long)]
    pub release: bool,
    /// Write nothing; fail if a file is out of date
    #[arg(long, conflicts_with = "print")]
    pub check: bool,
    /// Write nothing; print the files
    #[arg(long)]
    pub print: bool,
    /// Path to Cargo.toml
    #[arg(long, value_name = "PATH")]
    pub manifest_path: Option<PathBuf>,
}
