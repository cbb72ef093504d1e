//! The command line. Flags become plain data here and in `config`; no other module knows clap.

mod build;
mod color;
#[cfg(test)]
mod help;
mod jobs;
mod project;
mod snapshot;
mod tools;

use clap::{Parser, Subcommand};

use crate::ui::Color;

pub use build::Build;
pub(crate) use color::{choose as choose_color, flags_for_cargo, for_clap};
pub use jobs::{Attach, BuildArgs, DebugAdapter, Diff, GpusArgs, Launch, Ps, Run, Stop};
pub use project::{Demo, Exec, Init, New, Setup, Update, Vscode};
pub use snapshot::{
    Best, Snapshot, SnapshotCommand, SnapshotDiff, SnapshotExport, SnapshotImport, SnapshotList, SnapshotPrune,
    SnapshotShow,
};
pub use tools::{Completions, Doctor, Env, Man, Plot, Runs};

const EXIT_CODES: &str = "\
Exit codes:
  0      done
  1      --check: files are out of date; build: launch.json starts another program
  2      usage error: bad flag or value, unknown GPU, no project
  3      setup failed: no libtorch
  4      I/O error: a file, process or socket; or output was lost
  5      a node failed to join or was lost
  6      a check found something: a doctor error, a damaged snapshot, ranks or snapshots that differ
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
    /// Use verbose output (-vv: very verbose); DDP_LOG takes precedence
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
    /// The project depends on the ddp-runtime release of this program's version. If this program was built from a clone that
    /// still exists, the project depends on the clone by path. An existing folder is never touched.
    New(New),
    /// Make an existing crate trainable
    ///
    /// Adds missing parts: dependencies, .cargo/config.toml, a build script, .vscode, and an example with a training loop if
    /// no source has one. Lists what it wrote. Existing content stays unchanged, and a second call changes nothing.
    Init(Init),
    /// Bring a project's generated files up to this version's template
    ///
    /// Shows the changes as a diff, then asks. Edited files stay unchanged. Works in projects that `cargo ddp
    /// new` created: their .ddp-template.toml records the template.
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
    /// Build a project like `run`, without launching it (for editors)
    Build(BuildArgs),
    /// Open a debug session for each worker of a running job
    ///
    /// For a debugger's launch configuration, which `cargo ddp vscode` writes.
    Attach(Attach),
    /// Run lldb-dap for a rank's debug session, and show ranks that another rank has stopped (for editors)
    #[command(hide = true)]
    DebugAdapter(DebugAdapter),
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
    /// Report where the ranks of a running job differ
    ///
    /// At its next step, the job compares the parameters, buffers, gradients and optimizer state of all ranks, bit by bit.
    /// Prints the first difference: name, index, and each rank's value. Exits with code 6 if ranks differ in more than
    /// buffers. For programs whose training loop uses `ddp_runtime::Run` or `Trainer`.
    Diff(Diff),
    /// Write or update .vscode/, to debug every rank with F5
    ///
    /// Each binary that trains gets configurations for the launcher with all ranks, for one process, and a compound for
    /// debuggers that can't open sessions, with the tasks that build them. Files are edited in place: your own entries stay
    /// byte for byte. Options that you omit keep their values in the files.
    Vscode(Vscode),
    /// Find libtorch, or fetch it, and link this project to it
    ///
    /// Tries, in this order: LIBTORCH; the libtorch that the project is linked to; the active Python's torch; a libtorch in
    /// the user's cache; a new one in the cache, fetched with pip. Without --cpu or --cuda, a machine with an NVIDIA driver
    /// gets CUDA.
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
    /// A run is a number (as in runs/) or a folder with a metrics.jsonl of `ddp_runtime::metrics`.
    /// Several runs share one plot, with one color per run. Prints the names of the files on stdout.
    Plot(Plot),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn cargo_flags_reach_cargo() {
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
    fn commands_and_flags_match_the_list_in_this_test() {
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
                 master_port join_timeout secret_file preset at_step run package bin example release profile features all_features \
                 no_default_features target target_dir manifest_path jobs locked offline frozen args",
                "build: package bin example release profile features all_features no_default_features target target_dir \
                 manifest_path jobs locked offline frozen",
                "attach: run all choose",
                "debug-adapter: command",
                "launch: gpus nproc max_restarts backoff grace bind no_bind stall_timeout restart_on_stall \
                 no_restart_on_stall show log_dir stdin report json no_json quiet no_quiet dry_run no_dry_run nnodes \
                 node_rank master_addr master_port join_timeout secret_file command",
                "gpus: json",
                "ps: json",
                "stop: run all now",
                "diff: run all timeout json",
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
                "snapshot prune: dir keep_last keep_best best keep_every dry_run",
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
