//! The words of the command line. Flags become plain data here, and nothing behind this file knows clap.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use crate::cargo::Selection;
use crate::torch::{Flavor, Request};

const EXIT_CODES: &str = "\
Exit codes:
  0      done
  1      `update --check`: there are changes
  2      wrong use: flags, values, GPUs that are not there, no project
  3      no libtorch: set-up failed
  4      the system refused: a file, a process, a socket
  75     told to stop: the workers have saved a snapshot and left; run it again to go on
  101    the build failed
  126    the program can't be run
  127    there is no such program
  128+N  stopped by signal N (130: Ctrl-C)
When a worker failed, and was not (or no more) restarted, its own: the code of the first that failed, or 128+N for signal N.";

/// Train tch (libtorch) models on several GPUs, one worker process per GPU.
#[derive(Debug, Parser)]
#[command(name = "cargo ddp", bin_name = "cargo ddp", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Say what is done in detail
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set up, scaffold a project, build it and train it: everything once
    Demo(Demo),
    /// Make a new data-parallel training project
    ///
    /// The project depends on the release of ddp-runtime with this program's version; or, by path, on the clone that this
    /// program was built from, if that is still there. An existing folder is never touched.
    New(New),
    /// Make an existing crate trainable
    ///
    /// Adds what it lacks: dependencies, .cargo/config.toml, a build script, .vscode, and an example with a training loop if
    /// no source has one. Says what it wrote; whatever is there stays as it is, and a second call changes nothing.
    Init(Init),
    /// Bring a project's generated files up to this version's template
    ///
    /// Shows the changes as a diff, then asks. Files that were edited stay as they are. Works in projects of `cargo ddp
    /// new`, which keep a record in .ddp-template.toml.
    Update(Update),
    /// Build a project and run one worker per GPU
    ///
    /// Workers get torchrun's environment variables; with `--gpus 2,3` all see CUDA_VISIBLE_DEVICES=2,3, and LOCAL_RANK 0
    /// and 1 are their device indices. Their lines come with their rank before them. When one fails, all are stopped and
    /// started again, and go on from the newest snapshot. No worker outlives the launcher, however that ends.
    Run(Run),
    /// Run one worker per GPU of any program, without building anything
    ///
    /// A Python script written for torchrun runs unchanged: `cargo ddp launch --nproc 2 -- python3 train.py`. Everything
    /// else is as with `run`.
    Launch(Launch),
    /// List this machine's GPUs: memory, who uses them, NUMA node
    Gpus(GpusArgs),
    /// List the jobs of yours that run on this machine
    Ps(Ps),
    /// Ask a job to stop, as Ctrl-C in its terminal would
    Stop(Stop),
    /// Find libtorch, or fetch it, and link this project to it
    ///
    /// In this order: LIBTORCH; what the project is linked to already; the active Python's torch; one in the user's cache;
    /// a new one in the cache, fetched with pip. Without --cpu or --cuda, a machine with an NVIDIA driver gets CUDA.
    Setup(Setup),
    /// Run a command in the environment that set-up provides
    Exec(Exec),
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
    /// Folder to make
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
    /// A libtorch without CUDA
    #[arg(long, conflicts_with = "cuda")]
    pub cpu: bool,
    /// A libtorch with CUDA and NCCL
    #[arg(long)]
    pub cuda: bool,
    /// Python to look for torch in, and to fetch it with
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
    pub options: LaunchOptions,
    /// What to build.
    #[command(flatten)]
    pub build: Build,
    /// Arguments for the program
    #[arg(last = true)]
    pub args: Vec<OsString>,
}

/// `cargo ddp launch`
#[derive(Args, Debug)]
pub struct Launch {
    /// How to launch it.
    #[command(flatten)]
    pub options: LaunchOptions,
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
    /// The run, as `cargo ddp ps` names it [default: the only one that runs]
    pub run: Option<String>,
    /// Kill its workers at once
    #[arg(long)]
    pub now: bool,
}

/// How a job is launched. Those without a value are taken from `[package.metadata.ddp]`, where they have the same names
/// (`max-restarts = 5`), and then from the defaults.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct LaunchOptions {
    /// GPUs to use, one worker each: numbers, ranges, UUIDs, MIG instances or `all`, as in `2,3` or `0-3` [default: all
    /// visible ones, or one worker on the CPU]
    #[arg(long, value_name = "LIST", conflicts_with = "nproc")]
    pub gpus: Option<String>,
    /// Number of workers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub nproc: Option<u16>,
    /// How often to restart all workers from the newest snapshot when one fails, without a new snapshot between
    /// [default: 3]
    #[arg(long, value_name = "K")]
    pub max_restarts: Option<u32>,
    /// Time before the second restart in a row; doubled for each further one, at most a minute [default: 1]
    #[arg(long, value_name = "SECONDS")]
    pub backoff: Option<Seconds>,
    /// Time between asking workers to stop (SIGTERM) and killing them [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub grace: Option<Seconds>,
    /// Bind each worker to the cores and the memory of its GPU's NUMA node, or to its share of the cores
    #[arg(long)]
    pub bind: bool,
    /// Time without progress after which the stacks of all ranks are written; 0: never [default: 600 for workers that
    /// tell of their steps, never for others]
    #[arg(long, value_name = "SECONDS")]
    pub stall_timeout: Option<Seconds>,
    /// Restart all workers when they make no progress
    #[arg(long)]
    pub restart_on_stall: bool,
    /// Ranks whose output is shown: `all`, `none`, or `0,1` [default: all]
    #[arg(long, value_name = "RANKS")]
    pub show: Option<String>,
    /// Folder for the logs of runs [default: target/ddp/runs]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// The rank that reads standard input [default: none]
    #[arg(long, value_name = "RANK")]
    pub stdin: Option<usize>,
    /// Write what happened to the job to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print everything that happens as JSON on stdout, one object a line, workers' output included
    #[arg(long)]
    pub json: bool,
    /// Print warnings and errors only, beside workers' output
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the plan and each worker's environment, and launch nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A number of seconds, with or without a fraction.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(pub Duration);

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|err| err.to_string())
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<f64>().map_err(|_| format!("{text:?} is not a number of seconds"))?.try_into()
    }
}

/// cargo's selection flags.
#[derive(Args, Debug)]
#[command(next_help_heading = "Build")]
pub struct Build {
    /// Package to build
    #[arg(short, long, value_name = "SPEC")]
    package: Option<String>,
    /// Binary to run
    #[arg(long, value_name = "NAME", conflicts_with = "example")]
    bin: Option<String>,
    /// Example to run
    #[arg(long, value_name = "NAME")]
    example: Option<String>,
    /// Build with optimizations
    #[arg(short, long, conflicts_with = "profile")]
    release: bool,
    /// Build with this profile
    #[arg(long, value_name = "PROFILE-NAME")]
    profile: Option<String>,
    /// Features to turn on
    #[arg(short = 'F', long, value_name = "FEATURES")]
    features: Vec<String>,
    /// Turn all features on
    #[arg(long)]
    all_features: bool,
    /// Do not turn the `default` feature on
    #[arg(long)]
    no_default_features: bool,
    /// Folder for what is built
    #[arg(long, value_name = "DIRECTORY")]
    target_dir: Option<PathBuf>,
    /// Path to Cargo.toml
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
    /// Number of parallel jobs
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
    /// Assert that Cargo.lock stays as it is
    #[arg(long)]
    locked: bool,
    /// Do not use the network
    #[arg(long)]
    offline: bool,
    /// --locked and --offline
    #[arg(long)]
    frozen: bool,
}

impl Build {
    /// As plain data.
    pub fn selection(&self) -> Selection {
        let mut flags: Vec<OsString> = Vec::new();
        let mut valued = |flag: &str, value: Option<&std::ffi::OsStr>| {
            if let Some(value) = value {
                flags.extend([flag.into(), value.to_owned()]);
            }
        };
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        valued("--package", text(&self.package).as_deref());
        valued("--bin", text(&self.bin).as_deref());
        valued("--example", text(&self.example).as_deref());
        valued("--profile", text(&self.profile).as_deref());
        valued("--jobs", text(&self.jobs).as_deref());
        valued("--target-dir", self.target_dir.as_ref().map(|path| path.as_os_str()));
        for features in &self.features {
            valued("--features", Some(features.as_ref()));
        }
        for (flag, on) in [
            ("--release", self.release),
            ("--all-features", self.all_features),
            ("--no-default-features", self.no_default_features),
            ("--locked", self.locked),
            ("--offline", self.offline),
            ("--frozen", self.frozen),
        ] {
            flags.extend(on.then(|| flag.into()));
        }
        let target = self.bin.clone().or_else(|| self.example.clone());
        Selection { manifest_path: self.manifest_path.clone(), flags, target, package: self.package.clone() }
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
        }
        assert_eq!(
            found,
            [
                "demo: path",
                "new: path name template list",
                "init: path workspace",
                "update: path yes check",
                "run: gpus nproc max_restarts backoff grace bind stall_timeout restart_on_stall show log_dir stdin report \
                 json quiet dry_run package bin example release profile features all_features no_default_features \
                 target_dir manifest_path jobs locked offline frozen args",
                "launch: gpus nproc max_restarts backoff grace bind stall_timeout restart_on_stall show log_dir stdin report \
                 json quiet dry_run command",
                "gpus: json",
                "ps: json",
                "stop: run now",
                "setup: cpu cuda python",
                "exec: command",
            ]
        );
    }
}
