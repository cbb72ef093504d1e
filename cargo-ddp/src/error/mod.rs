//! The errors of this crate and their texts. `code` has their exit codes, `hint` their help.

mod code;
mod hint;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use ddp_contract::snapshot::SnapshotError;

use crate::os::interpreter::Fault;
use crate::os::interpreter::Missing;
use crate::os::interpreter::missing as missing_interpreter;

/// The result of what can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The libtorch that tch 0.26 is made for: its C++ ABI is pinned with it.
const NEEDED: &str = crate::version::LIBTORCH;

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
        /// A name that would do.
        suggestion: String,
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
    /// A setting in Cargo.toml or in the environment that can't be used.
    #[error("{place}: {problem}")]
    BadSetting {
        /// Where it is: a table, or a variable.
        place: String,
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
    /// No job of the current project runs, but others do.
    #[error("no running jobs in this project (elsewhere on this machine: {})", .0.join(", "))]
    NoRunInProject(Vec<String>),
    /// Several jobs, and none was chosen.
    #[error("several jobs are running, and none was chosen: {0}")]
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
    #[error("timed out after {seconds} s waiting for {}", ranks(.missing))]
    NotJoined {
        /// Which ranks.
        missing: Vec<usize>,
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
    #[error("no snapshots in {}", dir.display())]
    NoSnapshot {
        /// The folder.
        dir: PathBuf,
        /// Folders below the current one that have snapshots.
        others: Vec<PathBuf>,
    },
    /// A path that can't have snapshots.
    #[error("{} is not a folder of snapshots: {problem}", path.display())]
    NoSnapshotFolder {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
        /// Folders below the current one that have snapshots.
        others: Vec<PathBuf>,
    },
    /// A snapshot that can't be loaded.
    #[error("{} can't be loaded: {damage}", folder.display())]
    Damaged {
        /// Its folder.
        folder: PathBuf,
        /// Why.
        damage: SnapshotError,
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

    /// A command that was left out when the program was built.
    #[error("this cargo-ddp was built without the feature `{0}`")]
    #[cfg_attr(feature = "plot", expect(dead_code, reason = "all features are on"))]
    NoFeature(&'static str),

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

fn ranks(missing: &[usize]) -> String {
    let names: Vec<_> = missing.iter().map(ToString::to_string).collect();
    format!("rank{} {}", if missing.len() == 1 { "" } else { "s" }, names.join(", "))
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn no_run(run: &str, running: &[String]) -> String {
    if run.is_empty() {
        return "no running jobs".into();
    }
    format!("no running job {run:?}; there {}", are(running))
}

fn are(present: &[String]) -> String {
    match present {
        [] => "are none".into(),
        [one] => format!("is only {one}"),
        many => format!("are {}", many.join(", ")),
    }
}
