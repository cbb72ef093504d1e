use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use ddp_contract::snapshot::Damage;

use crate::exit;
use crate::launch::{Fault, Missing, missing_interpreter};
use crate::shell::quote_path;

/// The result of what can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The libtorch that tch 0.26 is made for: its C++ ABI is pinned with it.
const NEEDED: &str = crate::torch::VERSION;

/// What can go wrong before, and around, a job. (Workers that fail are an outcome of the launcher, not an error.)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // --- wrong use -------------------------------------------------------------------------------------------------
    /// A folder that is there already.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// A name that cargo would refuse.
    #[error("{name:?} can't be the name of a package: {problem}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A folder that cargo can't build in.
    #[error("cargo can't build in {}: {problem}", path.display())]
    BadFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A template that does not exist.
    #[error("there is no template {name:?}; there is: {known}")]
    NoTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A Cargo.toml, or cargo's configuration, that can't be worked with.
    #[error("{}: {problem}", path.display())]
    BadManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A crate that can't be made a member of a workspace.
    #[error("{} can't join a workspace: {problem}", folder.display())]
    CantJoin {
        /// The crate's folder.
        folder: PathBuf,
        /// Why.
        problem: String,
    },
    /// A project without a record of its template.
    #[error("there is no .ddp-template.toml in {}", .0.display())]
    NoRecord(PathBuf),
    /// A record of a template that can't be read.
    #[error("{}: {problem}", path.display())]
    BadRecord {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A project of a newer version.
    #[error("the project is from cargo-ddp {version}, and this is {}", env!("CARGO_PKG_VERSION"))]
    MadeByNewer {
        /// The version.
        version: String,
    },
    /// Changes that nobody could be asked about.
    #[error("there are changes, and no terminal to ask on")]
    Unconfirmed,
    /// An option in Cargo.toml that is none.
    #[error("[package.metadata.ddp] in Cargo.toml: {problem}")]
    BadSetting {
        /// What is wrong.
        problem: String,
    },
    /// A value that an option does not take.
    #[error("--{option}: {problem}")]
    BadOption {
        /// The option's name.
        option: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A program that does not exist.
    #[error("there is no program {}", .0.display())]
    NoProgram(PathBuf),
    /// A program that can't be run.
    #[error("{} can't be run: {source}", program.display())]
    NotExecutable {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program whose interpreter, or dynamic loader, can't be used.
    #[error("{} can't be run: it needs {interpreter}, {}", program.display(), needed(*fault))]
    NoInterpreter {
        /// Which program.
        program: PathBuf,
        /// What it names.
        interpreter: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A variable that holds what it can't.
    #[error("environment variable {name}={value:?}: {problem}")]
    BadVariable {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such run.
    #[error("{}", no_run(.run, .running))]
    NoRun {
        /// The run asked for.
        run: String,
        /// The runs there are.
        running: Vec<String>,
    },
    /// Several jobs, and none was chosen.
    #[error("several jobs run here, and none was chosen: {0}")]
    ManyRuns(String),
    /// DDP_DEBUG has no such value.
    #[error("DDP_DEBUG={0:?} is neither lldb-dap, codelldb nor compound")]
    BadDebug(String),
    /// DDP_JOB_SECRET is not fit to be a secret.
    #[error("DDP_JOB_SECRET: {0}")]
    BadSecret(String),
    /// `cargo ddp attach` without a debugger.
    #[error("no debugger watches this process, so there is nobody to open debug sessions")]
    NotDebugged,
    /// A launcher waits there already.
    #[error("another launcher waits for its workers at {}", .0.display())]
    JoinTaken(PathBuf),
    /// The debugger has not started all workers.
    #[error("{missing} did not come in {seconds} s")]
    NotJoined {
        /// Which ranks.
        missing: String,
        /// How long they were waited for.
        seconds: u64,
    },
    /// cargo finds no project.
    #[error("no cargo project here: {0}")]
    NoProject(String),
    /// A project that cargo can't read.
    #[error("cargo can't read this project: {0}")]
    BadProject(String),
    /// Nothing that could be trained was built.
    #[error("the selection has no binary to run")]
    NoBinary,
    /// Several binaries could be meant, and none was chosen.
    #[error("there are several binaries, and none was chosen: {0}")]
    ManyBinaries(String),
    /// `build.target` in cargo's configuration lists several, and a program is built for one.
    #[error("cargo's configuration builds for several targets: {0}")]
    ManyPlatforms(String),
    /// launch.json starts another program than cargo has built.
    #[error("cargo built {}, and .vscode/launch.json starts {}", built.display(), started.display())]
    StartsAnother {
        /// What cargo has built.
        built: PathBuf,
        /// What a configuration starts.
        started: PathBuf,
    },
    /// A list of GPUs that is not one.
    #[error("--gpus {list:?}: {problem}")]
    BadGpuList {
        /// The list as given.
        list: String,
        /// What is wrong with it.
        problem: String,
    },
    /// GPUs that are not there.
    #[error("there is no GPU {missing}; there {}", are(.present))]
    NoSuchGpu {
        /// What was asked for.
        missing: String,
        /// The GPUs there are.
        present: Vec<String>,
    },
    /// No NVIDIA driver.
    #[error("GPUs can't be used: {0}")]
    NoDriver(String),
    /// A GPU outside of what the environment allows.
    #[error("GPU {gpu} is not among CUDA_VISIBLE_DEVICES={visible}, which limits this job")]
    GpuNotVisible {
        /// What was asked for.
        gpu: String,
        /// The outer limit.
        visible: String,
    },
    /// A file for VS Code that can't be edited.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    BadJson {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A binary that there is not, or that does not train.
    #[error("nothing called {name:?} depends on ddp-runtime; there {}", are(.known))]
    NoTarget {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A project without anything to train.
    #[error("no binary of this project depends on ddp-runtime")]
    NothingToDebug,
    /// `--check` found files that `cargo ddp vscode` would change.
    #[error("not as `cargo ddp vscode` makes {}: {}", if .0.len() == 1 { "it" } else { "them" }, list(.0))]
    Stale(Vec<PathBuf>),

    // --- snapshots -------------------------------------------------------------------------------------------------
    /// A folder without snapshots.
    #[error("there is no snapshot in {}", .0.display())]
    NoSnapshot(PathBuf),
    /// A path that can't have snapshots.
    #[error("{} is not a folder of snapshots: {problem}", path.display())]
    NoSnapshotFolder {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A snapshot that can't be loaded.
    #[error("{} can't be loaded: {damage}", folder.display())]
    Damaged {
        /// Its folder.
        folder: PathBuf,
        /// Why.
        damage: Damage,
    },
    /// A program writes to the same directory of snapshots.
    #[error("{} can't be used: {problem}", dir.display())]
    SnapshotsInUse {
        /// The directory.
        dir: PathBuf,
        /// Who uses it.
        problem: String,
    },
    /// A file that holds no tensors.
    #[error("{} is no safetensors file: {problem}", path.display())]
    BadTensorFile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do, if it is not what is usual.
        help: Option<String>,
    },
    /// A file that no snapshot can be made of.
    #[error("can't import {}: {problem}", path.display())]
    CantImport {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
        /// What to do.
        help: String,
    },
    /// A table of names that is none.
    #[error("the names in {}: {problem}", path.display())]
    BadNames {
        /// The table's file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },

    /// A run that is not on this machine.
    #[error("{0}")]
    RunsElsewhere(String),
    /// A directory for a run that can't be made.
    #[error("can't make a directory for the run in {}: {source}", dir.display())]
    RunDir {
        /// The directory of runs.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No such run has been here.
    #[error("there is no run {run:?} in {}; there {}", list(.runs), are(.known))]
    NoRunFolder {
        /// The run asked for.
        run: String,
        /// Where runs are.
        runs: Vec<PathBuf>,
        /// The runs there are.
        known: Vec<String>,
    },
    /// A run without metrics.
    #[error("{} has no metrics", .0.display())]
    NoMetrics(PathBuf),
    /// A metric that no run has.
    #[error("no metric is called {name:?}; there {}", are(.known))]
    NoMetric {
        /// The name asked for.
        name: String,
        /// The metrics there are.
        known: Vec<String>,
    },
    /// A file of metrics that can't be read.
    #[error("{}: {problem}", path.display())]
    BadMetrics {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    // --- set-up ----------------------------------------------------------------------------------------------------
    /// LIBTORCH leads to something unusable.
    #[error("LIBTORCH={}: {problem}", path.display())]
    BadLibtorch {
        /// The variable's value.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No Python.
    #[error("libtorch {NEEDED} is not here, and there is no Python to fetch it with")]
    NoPython,
    /// `--python` is not a Python 3.
    #[error("{} is no Python 3 that works: {problem}", python.display())]
    BadPython {
        /// The interpreter.
        python: PathBuf,
        /// What happened.
        problem: String,
    },
    /// A Python without pip and without venv.
    #[error("{} has neither pip nor venv, so libtorch {NEEDED} can't be fetched", python.display())]
    NoPip {
        /// The interpreter.
        python: PathBuf,
    },
    /// No room.
    #[error("{} has {free_gb:.1} GB free, and setting libtorch up takes {needed_gb:.0} GB", path.display())]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// What is free, in 10^9 bytes.
        free_gb: f64,
        /// What is needed, in 10^9 bytes.
        needed_gb: f64,
    },
    /// pip failed.
    #[error("pip could not fetch libtorch {NEEDED}: {line}")]
    Pip {
        /// Its last error line.
        line: String,
        /// What it was about, as far as can be told.
        fault: PipFault,
    },
    /// What pip brought is not a libtorch.
    #[error("what pip brought is not usable: {0}")]
    Incomplete(String),
    /// There is no home to cache in.
    #[error("neither XDG_CACHE_HOME nor HOME is set, so there is no place to keep libtorch in")]
    NoCache,
    /// Others can put things into the cache.
    #[error("the cache {} can't be trusted: {problem}", path.display())]
    UnsafeCache {
        /// The folder.
        path: PathBuf,
        /// Who can.
        problem: String,
    },

    // --- other nodes ----------------------------------------------------------------------------------------------
    /// The launchers of all nodes could not meet.
    #[error("the nodes can't meet at {place}: {problem}")]
    Rendezvous {
        /// `--master-addr` and `--master-port`.
        place: String,
        /// Who is missing, or what does not fit.
        problem: String,
    },

    // --- the build and the system ----------------------------------------------------------------------------------
    /// cargo failed; it has said why.
    #[error("the build failed ({0})")]
    Build(ExitStatus),
    /// A program could not be started.
    #[error("can't start {}: {source}", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused something.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Output is lost.
    #[error("can't write to {stream}: {source}")]
    Output {
        /// `stdout` or `stderr`.
        stream: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A template that can't be rendered: a fault of ours.
    #[error("template {template}: {problem}")]
    Template {
        /// Its file.
        template: String,
        /// What is wrong.
        problem: String,
    },
}

/// What a failure of pip was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipFault {
    /// The index could not be reached.
    Network,
    /// The disk is full.
    Disk,
    /// The index has no such version for this Python.
    NoWheel,
    /// A package is not the one that was published.
    Hash,
    /// Anything else.
    Other,
}

impl Error {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exists(_) => "choose another path, or remove it first; nothing was changed".into(),
            Self::BadName { name, .. } => {
                format!("give another name with --name, for example `--name {}`", crate::scaffold::suggestion(name))
            }
            Self::BadFolder { .. } => "choose another folder: cargo needs a path of UTF-8, without `:`".into(),
            Self::NoProject(_) => "go into a project, or make one with `cargo ddp new my-model`".into(),
            Self::CantJoin { .. } => "without --workspace it stays outside of one".into(),
            Self::NoRecord(_) => "only projects of `cargo ddp new` have one; go into such a project's folder".into(),
            Self::BadRecord { .. } => "take the file from your version control again".into(),
            Self::MadeByNewer { .. } => "use that version, or a newer one: `cargo install cargo-ddp`".into(),
            Self::Unconfirmed => "--yes applies them, --check only shows them".into(),
            Self::NoBinary => "training needs a binary (src/main.rs, or --bin, --example)".into(),
            Self::ManyBinaries(_) => {
                "choose one with --bin NAME, and its package with -p NAME; `default-run` in Cargo.toml makes one the default"
                    .into()
            }
            Self::BadProject(_) => "correct the file that cargo names; `cargo metadata` shows the same error".into(),
            Self::ManyPlatforms(_) => "choose one with --target TRIPLE".into(),
            Self::StartsAnother { .. } => "run `cargo ddp vscode` to update .vscode/".into(),
            Self::BadSetting { .. } => "`cargo ddp run --help` lists the options and what they take".into(),
            Self::NoProgram(_) => "give its path, or the name of one on PATH".into(),
            Self::NotExecutable { source, .. } if is_not_a_program(source) => {
                format!("a program must be built for this machine ({}); a script must be text", std::env::consts::ARCH)
            }
            Self::NotExecutable { .. } => {
                "a script needs `chmod +x` and a first line like `#!/usr/bin/env python3`".into()
            }
            Self::NoInterpreter { program, fault: Fault::Windows, .. } => {
                format!("convert its line ends: sed -i 's/\\r$//' {}", quote_path(program))
            }
            Self::NoInterpreter { interpreter, fault: Fault::NotExecutable, .. } => {
                format!("make it executable: chmod +x {}", quote_path(Path::new(interpreter)))
            }
            Self::NoInterpreter { fault: Fault::Missing, .. } => {
                "install it, or name another in the first line of a script (`#!/usr/bin/env python3`); a program must be built \
                 for this system"
                    .into()
            }
            Self::BadVariable { name, .. } => format!("unset {name}, or give it another value"),
            Self::System { source, .. } | Self::Start { source, .. }
                if source.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) =>
            {
                crate::launch::open_files_hint()
            }
            Self::NoRun { .. } | Self::ManyRuns(_) => "`cargo ddp ps` lists them".into(),
            Self::BadJson { .. } => "correct it there, or move the file away; nothing was changed".into(),
            Self::NoTarget { .. } => "give the name of a binary or an example with --bin, its package with -p".into(),
            Self::NothingToDebug => "add ddp-runtime to its dependencies, or go into a project that has it".into(),
            Self::Stale(_) => {
                "run `cargo ddp vscode` with the same flags, without --check, and commit what it writes".into()
            }
            Self::RunsElsewhere(_) => "run the command there; process ids mean nothing on another machine".into(),
            Self::RunDir { .. } => {
                "choose another directory with --log-dir DIR, or with log-dir in [package.metadata.ddp]".into()
            }
            Self::NoRunFolder { .. } => "give a run's number, its folder, or the folder of runs with --log-dir".into(),
            Self::NoMetrics(_) => {
                "a run writes them with `ddp_runtime::metrics::Metrics`; a `Trainer` does by itself with `.metrics(&metrics)`"
                    .into()
            }
            Self::BadMetrics { .. } => {
                "the file was changed, or is from a newer version: update with `cargo install cargo-ddp`".into()
            }
            Self::BadSecret(_) => "`openssl rand -hex 32` makes one; all nodes need the same".into(),
            Self::BadDebug(_) => "`cargo ddp vscode` writes launch configurations that set it".into(),
            Self::NotDebugged => {
                "start it through the launch configuration that `cargo ddp vscode` writes (ddp: attach to a running job)"
                    .into()
            }
            Self::JoinTaken(_) => "stop that one first: `cargo ddp stop`, or its debug session".into(),
            Self::NotJoined { .. } => {
                "start the whole compound (ddp: BIN, launcher + N workers), not the launcher's part alone".into()
            }
            Self::NoSuchGpu { .. } => "`nvidia-smi -L` lists the GPUs".into(),
            Self::NoDriver(_) => {
                "`--nproc N` runs N workers without asking for GPUs (on the CPU where there are none)".into()
            }
            Self::GpuNotVisible { .. } => "unset CUDA_VISIBLE_DEVICES, or choose among these".into(),
            Self::BadLibtorch { .. } => {
                format!("unset LIBTORCH to let `cargo ddp setup` find or fetch libtorch {NEEDED}, or point it to one")
            }
            Self::NoPython => format!(
                "install Python 3 with pip (for example `apt-get install python3-pip`), give one with --python, \
                 or set LIBTORCH to a libtorch {NEEDED}"
            ),
            Self::BadPython { .. } => "give another with --python".into(),
            Self::NoPip { .. } => {
                "install pip or venv for it (for example `apt-get install python3-pip python3-venv`), or give another \
                 Python with --python"
                    .into()
            }
            Self::NoSpace { .. } => "make room, or set XDG_CACHE_HOME to a folder on a larger disk".into(),
            Self::Pip { fault, .. } => match fault {
                PipFault::Network => {
                    "check the network (pip reads PIP_INDEX_URL and HTTPS_PROXY), or set LIBTORCH to a \
                                      libtorch fetched elsewhere; run the same command again to go on"
                        .into()
                }
                PipFault::Disk => "make room, or set XDG_CACHE_HOME to a folder on a larger disk".into(),
                PipFault::NoWheel => format!(
                    "torch {NEEDED} has no package for this Python or platform: give another Python with --python \
                     (3.10 to 3.14), or set LIBTORCH to a libtorch {NEEDED}"
                ),
                PipFault::Hash => {
                    "a package differs from the published one: the download was damaged, or the package index or a proxy \
                     changed it; try again, or set LIBTORCH to a libtorch that you trust"
                        .into()
                }
                PipFault::Other => "see pip's lines above; `-v` shows the whole command".into(),
            },
            Self::NoSnapshot(_) | Self::NoSnapshotFolder { .. } => {
                "give a folder that has `step-…` folders, or one of these; without a path it is `snapshots`".into()
            }
            Self::SnapshotsInUse { .. } => "wait for that program to end, stop it, or give another directory".into(),
            Self::Damaged { .. } => "`cargo ddp snapshot ls DIR` says which snapshots are whole".into(),
            Self::BadTensorFile { help: Some(help), .. } => help.clone(),
            Self::BadTensorFile { help: None, .. } => {
                "in Python: `safetensors.torch.save_file(model.state_dict(), \"model.safetensors\")` writes one".into()
            }
            Self::CantImport { help, .. } => help.clone(),
            Self::BadNames { .. } => {
                "JSON {\"from\": \"to\"} or TOML \"from\" = \"to\", with one `*` in a pattern: \"model.*\" = \"*\""
                    .into()
            }
            Self::NoCache => "set XDG_CACHE_HOME".into(),
            Self::UnsafeCache { .. } => {
                "set XDG_CACHE_HOME to a folder of your own (under sudo, HOME may still be another user's)".into()
            }
            Self::Rendezvous { .. } => {
                "start `cargo ddp` on every node with the same --nnodes, --master-addr (an address of node 0 that all can \
                 reach) and --master-port, and with a --node-rank of its own; --join-timeout gives them more time"
                    .into()
            }
            Self::Output { .. } => "the command did its work, but a part of its output is lost: free space, or write elsewhere".into(),
            Self::Template { .. } => "this is a fault of cargo-ddp: please report it".into(),
            _ => return None,
        })
    }

    /// See [`exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exists(_)
            | Self::BadName { .. }
            | Self::BadFolder { .. }
            | Self::NoTemplate { .. }
            | Self::NoProject(_)
            | Self::BadManifest { .. }
            | Self::CantJoin { .. }
            | Self::NoRecord(_)
            | Self::BadRecord { .. }
            | Self::MadeByNewer { .. }
            | Self::Unconfirmed
            | Self::BadProject(_)
            | Self::NoBinary
            | Self::ManyBinaries(_)
            | Self::ManyPlatforms(_)
            | Self::BadSetting { .. }
            | Self::BadOption { .. }
            | Self::BadDebug(_)
            | Self::BadSecret(_)
            | Self::BadVariable { .. }
            | Self::NotDebugged
            | Self::JoinTaken(_)
            | Self::NoRun { .. }
            | Self::ManyRuns(_)
            | Self::RunsElsewhere(_)
            | Self::NoRunFolder { .. }
            | Self::NoMetrics(_)
            | Self::NoMetric { .. }
            | Self::BadMetrics { .. }
            | Self::BadGpuList { .. }
            | Self::NoSuchGpu { .. }
            | Self::NoDriver(_)
            | Self::BadJson { .. }
            | Self::NoTarget { .. }
            | Self::NothingToDebug
            | Self::NoSnapshot(_)
            | Self::NoSnapshotFolder { .. }
            | Self::SnapshotsInUse { .. }
            | Self::BadTensorFile { .. }
            | Self::CantImport { .. }
            | Self::BadNames { .. }
            | Self::GpuNotVisible { .. } => exit::USAGE,
            Self::Stale(_) | Self::StartsAnother { .. } => exit::STALE,
            Self::Damaged { .. } => exit::FOUND,
            Self::BadLibtorch { .. }
            | Self::NoPython
            | Self::BadPython { .. }
            | Self::NoPip { .. }
            | Self::NoSpace { .. }
            | Self::Pip { .. }
            | Self::Incomplete(_)
            | Self::NoCache
            | Self::UnsafeCache { .. } => exit::SETUP_FAILED,
            Self::Rendezvous { .. } => exit::NODE_LOST,
            Self::Build(_) => exit::BUILD_FAILED,
            Self::NoProgram(_) => exit::COMMAND_NOT_FOUND,
            Self::NotExecutable { .. } | Self::NoInterpreter { .. } => exit::NOT_EXECUTABLE,
            Self::NotJoined { .. }
            | Self::Start { .. }
            | Self::System { .. }
            | Self::Output { .. }
            | Self::RunDir { .. }
            | Self::Template { .. } => exit::SYSTEM,
        }
    }

    /// What starting a program failed with.
    pub(crate) fn start(program: &Path, source: io::Error) -> Self {
        let program = which::which(program).unwrap_or_else(|_| program.to_owned());
        match source.kind() {
            io::ErrorKind::NotFound if !program.exists() => Self::NoProgram(program),
            // Of a script, it may be the interpreter that is meant.
            kind @ (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => match missing_interpreter(&program) {
                Some(missing) => Self::no_interpreter(program, missing),
                None if kind == io::ErrorKind::NotFound => Self::Start { program, source },
                None => Self::NotExecutable { program, source },
            },
            _ if is_not_a_program(&source) => Self::NotExecutable { program, source },
            _ => Self::Start { program, source },
        }
    }

    pub(crate) fn no_interpreter(program: PathBuf, missing: Missing) -> Self {
        let Missing { interpreter, fault } = missing;
        Self::NoInterpreter { program, interpreter, fault }
    }

    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }
}

fn is_not_a_program(source: &io::Error) -> bool {
    source.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}

fn needed(fault: Fault) -> &'static str {
    match fault {
        Fault::Missing => "which does not exist",
        Fault::Windows => "and names it with a carriage return (CRLF)",
        Fault::NotExecutable => "which is not executable",
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn no_run(run: &str, running: &[String]) -> String {
    if run.is_empty() {
        return "no job of yours runs here".into();
    }
    format!("no job {run:?} of yours runs here; there {}", are(running))
}

fn are(present: &[String]) -> String {
    match present {
        [] => "are none".into(),
        [one] => format!("is only {one}"),
        many => format!("are {}", many.join(", ")),
    }
}
