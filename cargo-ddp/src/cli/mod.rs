//! The command line. Flags become plain data here and in `config`; no other module knows clap.

mod build;
mod color;
mod snapshot;
mod tools;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::editor::vscode::Debugger;
use crate::project::libtorch::{Flavor, Request};
use crate::ui::Color;

pub use crate::config::LaunchFlags;
pub use build::Build;
pub(crate) use color::{choose as choose_color, flags_for_cargo, for_clap};
pub use snapshot::{
    Best, Snapshot, SnapshotCommand, SnapshotDiff, SnapshotExport, SnapshotImport, SnapshotList, SnapshotPrune,
    SnapshotShow,
};
pub use tools::{Completions, Doctor, Env, Man, Runs};

const EXIT_CODES: &str = "\
Exit codes:
  0      done
  1      --check: files are not as they would be written; build: launch.json starts another program
  2      usage error: bad flag or value, unknown GPU, no project
  3      setup failed: no libtorch
  4      I/O error: a file, process or socket; or output was lost
  5      a node failed to join or was lost
  6      a check found something: an error of doctor, a damaged snapshot, snapshots that differ
  75     asked to stop: all workers saved a snapshot and exited; run again to resume
  101    the build failed
  126    the program can't be run
  127    program not found
  128+N  stopped by signal N (130: Ctrl-C)
If a worker fails for good: the exit code of the first one, or 128+N for signal N.";

/// Train tch (libtorch) models on several GPUs, one worker process per GPU.
#[derive(Debug, Parser)]
#[command(name = "cargo ddp", bin_name = "cargo ddp", version = tools::version(), after_help = EXIT_CODES)]
pub struct Cli {
    /// Use verbose output (-vv: very verbose); DDP_LOG wins over it
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Color the output: auto, always or never [default: CARGO_TERM_COLOR, else auto]
    #[arg(long, global = true, value_name = "WHEN")]
    pub color: Option<Color>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, build and train an example project
    Demo(Demo),
    /// Create a new data-parallel training project
    ///
    /// The project depends on the release of ddp-runtime with this program's version; or, by path, on the clone that this
    /// program was built from, if it still exists. An existing folder is never touched.
    New(New),
    /// Make an existing crate trainable
    ///
    /// Adds what is missing: dependencies, .cargo/config.toml, a build script, .vscode, and an example with a training loop if
    /// no source has one. Lists what it wrote. Existing content stays unchanged, and a second call changes nothing.
    Init(Init),
    /// Bring a project's generated files up to this version's template
    ///
    /// Shows the changes as a diff, then asks. Edited files stay unchanged. Works in projects of `cargo ddp
    /// new`, which keep a record in .ddp-template.toml.
    Update(Update),
    /// Build a project and run one worker per GPU
    ///
    /// Workers get torchrun's environment variables; with `--gpus 2,3` all see CUDA_VISIBLE_DEVICES=2,3, and LOCAL_RANK 0
    /// and 1 are their device indices. Each output line is prefixed with its rank. When a worker fails, all are stopped and
    /// restarted from the newest snapshot. No worker outlives the launcher, however the launcher ends.
    ///
    /// Options are also read from DDP_ environment variables and from [package.metadata.ddp] and [workspace.metadata.ddp] in
    /// Cargo.toml; flags win over variables, and variables over Cargo.toml.
    Run(Box<Run>),
    /// Build a project as `run` does, and launch nothing: for editors
    Build(BuildArgs),
    /// Open a debug session for each worker of a running job
    ///
    /// For a debugger's launch configuration, which `cargo ddp vscode` writes.
    Attach(Attach),
    /// Run one worker per GPU of any program, without building anything
    ///
    /// A Python script written for torchrun runs unchanged: `cargo ddp launch --nproc 2 -- python3 train.py`. Everything
    /// else works as in `run`, except that a program that does not use ddp-runtime is restarted only with --max-restarts.
    Launch(Launch),
    /// List this machine's GPUs: memory, processes, NUMA node
    Gpus(GpusArgs),
    /// List your running jobs on this machine
    Ps(Ps),
    /// Ask a job to stop, as Ctrl-C in its terminal would
    Stop(Stop),
    /// Write or update .vscode/, to debug every rank with F5
    ///
    /// For each binary that trains: launcher and ranks, one process, and a compound for debuggers that can't open sessions;
    /// with the tasks that build them. Files are edited: your own entries stay unchanged to the byte. Options that you
    /// leave out keep their value in the files.
    Vscode(Vscode),
    /// Find libtorch, or fetch it, and link this project to it
    ///
    /// In this order: LIBTORCH; the one that the project is linked to; the active Python's torch; one in the user's cache;
    /// a new one in the cache, fetched with pip. Without --cpu or --cuda, a machine with an NVIDIA driver gets CUDA.
    Setup(Setup),
    /// Run a command in the environment that `setup` provides
    Exec(Exec),
    /// Print the variables that `exec` sets, for a shell: `eval "$(cargo ddp env)"`
    Env(Env),
    /// List this project's runs: start, end, last step, best metric, restarts
    Runs(Runs),
    /// List, compare, prune, export and import snapshots
    Snapshot(Snapshot),
    /// Check that this machine can train: toolchain, libtorch, GPUs, limits, debugger
    ///
    /// Each line is ok, a warning or an error, with a hint. Exits with code 6 if there is an error.
    Doctor(Doctor),
    /// Print the completion script for a shell
    ///
    /// bash: `cargo ddp completions bash > ~/.local/share/bash-completion/completions/cargo-ddp`, and for `cargo ddp`
    /// itself `source` that file in ~/.bashrc, after cargo's own. zsh: write it to `_cargo-ddp` in a folder of $fpath;
    /// cargo's own finds it there. fish: to ~/.config/fish/conf.d/cargo-ddp.fish.
    Completions(Completions),
    /// Print the manual page
    Man(Man),
    /// Draw loss and metric curves of runs, as SVG and PNG
    ///
    /// A run is a number (as in runs/) or a folder with a metrics.jsonl, which `ddp_runtime::metrics` writes.
    /// Several runs share one picture, one color each. The files' names are printed on stdout.
    Plot(Plot),
}

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
    /// Name of the package [default: the folder's]
    #[arg(long)]
    pub name: Option<String>,
    /// Template to start from
    #[arg(long, default_value = "linear")]
    pub template: String,
    /// List the templates, with a line about each
    #[arg(long)]
    pub list: bool,
}

/// `cargo ddp init`
#[derive(Args, Debug)]
pub struct Init {
    /// Folder of the crate
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// Make it a member of the workspace around it
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
    /// Only show the changes; exit code 1 if there are any
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
    /// Python whose torch is used, and whose pip fetches it
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
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

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

/// `cargo ddp plot`
#[derive(Args, Debug)]
pub struct Plot {
    /// Runs: numbers or folders [default: latest]
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
    /// A metric to draw, by its name (`train/loss`) or the last part of it (`loss`); may be repeated [default: all
    /// metrics of the model, without learning rate, gradient norm, throughput and memory]
    #[arg(short, long, value_name = "NAME")]
    pub metric: Vec<String>,
    /// File to write, .svg or .png; may be repeated [default: plot.svg and plot.png in the first run's folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Vec<PathBuf>,
    /// Draw a moving average over curves of 50 points or more; the value is the weight of the past [without a value: 0.9]
    #[arg(long, value_name = "WEIGHT", num_args = 0..=1, require_equals = true, default_missing_value = "0.9", value_parser = weight)]
    pub smooth: Option<f64>,
    /// Use a logarithmic scale for values
    #[arg(long)]
    pub log: bool,
    /// Directory of the runs [default: as for `cargo ddp runs`]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
}

fn weight(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(weight) if (0.0..1.0).contains(&weight) => Ok(weight),
        _ => Err("a weight is a number from 0 to below 1, such as 0.9".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn cargos_flags_reach_cargo() {
        let words = "cargo-ddp run -p a --bin b --release -F x,y --features z --locked -- --epochs 3";
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        let selection = run.build.selection();
        let flags: Vec<_> = selection.flags.iter().map(|flag| flag.to_str().unwrap()).collect();
        assert_eq!(flags.join(" "), "--package a --bin b --features x,y --features z --release --locked");
        assert_eq!(selection.target.as_deref(), Some("b"));
        assert_eq!(run.args, ["--epochs", "3"]);
    }

    #[test]
    fn every_command_and_flag_is_known_here() {
        // Adding one is a decision: add it here too.
        let mut found = Vec::new();
        for command in Cli::command().get_subcommands() {
            let flags: Vec<_> = command.get_arguments().map(|arg| arg.get_id().as_str()).collect();
            found.push(format!("{}: {}", command.get_name(), flags.join(" ")));
            for below in command.get_subcommands() {
                let flags: Vec<_> = below.get_arguments().map(|arg| arg.get_id().as_str()).collect();
                found.push(format!("{} {}: {}", command.get_name(), below.get_name(), flags.join(" ")));
            }
        }
        assert_eq!(
            found,
            [
                "demo: path",
                "new: path name template list",
                "init: path workspace",
                "update: path yes check",
                "run: gpus nproc max_restarts backoff grace bind no_bind stall_timeout restart_on_stall no_restart_on_stall \
                 show log_dir stdin report json no_json quiet no_quiet dry_run no_dry_run nnodes node_rank master_addr \
                 master_port join_timeout secret_file preset package bin example release profile features all_features \
                 no_default_features target target_dir manifest_path jobs locked offline frozen args",
                "build: package bin example release profile features all_features no_default_features target target_dir \
                 manifest_path jobs locked offline frozen",
                "attach: run all choose",
                "launch: gpus nproc max_restarts backoff grace bind no_bind stall_timeout restart_on_stall \
                 no_restart_on_stall show log_dir stdin report json no_json quiet no_quiet dry_run no_dry_run nnodes \
                 node_rank master_addr master_port join_timeout secret_file command",
                "gpus: json",
                "ps: json",
                "stop: run all now",
                "vscode: debugger nproc gpus bin package release check print manifest_path",
                "setup: cpu cuda python",
                "exec: command",
                "env: json",
                "runs: log_dir json",
                "snapshot: ",
                "snapshot ls: dir json",
                "snapshot show: dir json",
                "snapshot verify: dir json",
                "snapshot diff: a b json",
                "snapshot prune: dir keep_last keep_best best dry_run",
                "snapshot export: dir to names",
                "snapshot import: file to names",
                "doctor: json",
                "completions: shell",
                "man: dir",
                "plot: runs metric output smooth log log_dir",
            ]
        );
    }
}
