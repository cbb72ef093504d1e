//! What to do about an error.

use std::path::Path;

use super::format::list;
use super::new::is_not_a_program;
use super::{Error, NEEDED, PipFault};
use crate::os::interpreter::Fault;
use crate::shell::quote_path;

const MORE_SPACE: &str = "free space, or set XDG_CACHE_HOME to a folder on a larger disk";

impl Error {
    /// What the user can do, if there is a usual answer.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exists(_) => "choose another path, or remove this one first; nothing was changed".into(),
            Self::BadName { suggestion, .. } => {
                format!("choose another name with --name, for example `--name {suggestion}`")
            }
            Self::BadFolder { .. } => "choose another folder: cargo needs a UTF-8 path without `:`".into(),
            Self::NoProject(_) => "change to a project's folder, or create a project with `cargo ddp new my-model`".into(),
            Self::CantJoin { .. } => "without --workspace, the crate becomes its own workspace".into(),
            Self::NoRecord(_) => "change to the folder of a project that `cargo ddp new` created: only these have the file".into(),
            Self::BadRecord { .. } => "restore the file from version control".into(),
            Self::MadeByNewer { .. } => "update with `cargo install cargo-ddp`".into(),
            Self::Unconfirmed => "pass --yes to apply the changes, or --check to only show them".into(),
            Self::NoBinary => "training needs a binary: src/main.rs, or one chosen with --bin or --example".into(),
            Self::ManyBinaries(_) => {
                "choose one with --bin NAME (and its package with -p NAME), or set `default-run` in Cargo.toml".into()
            }
            Self::BadProject(_) => "fix the file that cargo names; `cargo metadata` prints the same error".into(),
            Self::ManyPlatforms(_) => "choose one with --target TRIPLE".into(),
            Self::StartsAnother { .. } => "run `cargo ddp vscode` to update .vscode/".into(),
            Self::BadSetting { .. } => "`cargo ddp run --help` lists the options and their values".into(),
            Self::NoProgram(_) => "pass the path of a program, or the name of a program on PATH".into(),
            Self::NotExecutable { source, .. } if is_not_a_program(source) => {
                format!("a program must be built for this machine ({}), and a script must be a text file", std::env::consts::ARCH)
            }
            Self::NotExecutable { .. } => {
                "a script needs `chmod +x` and a first line like `#!/usr/bin/env python3`".into()
            }
            Self::NoInterpreter { program, fault: Fault::Windows, .. } => {
                format!("convert the line endings: sed -i 's/\\r$//' {}", quote_path(program))
            }
            Self::NoInterpreter { interpreter, fault: Fault::NotExecutable, .. } => {
                format!("make the interpreter executable: chmod +x {}", quote_path(Path::new(interpreter)))
            }
            Self::NoInterpreter { fault: Fault::Missing, .. } => {
                "install the interpreter, or name another one in the script's first line (`#!/usr/bin/env python3`); a binary \
                 must be built for this system"
                    .into()
            }
            Self::BadVariable { name, .. } => format!("unset {name}, or set it to another value"),
            Self::System { source, .. } | Self::Start { source, .. }
                if source.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) =>
            {
                crate::os::descriptors::hint()
            }
            Self::NoRun { .. } => "`cargo ddp ps` lists the running jobs".into(),
            Self::ManyRuns(_) => "name one of them; `cargo ddp ps` lists the running jobs".into(),
            Self::NoRunInProject(_) => {
                "name one of them, or pass --all to consider the jobs of all projects".into()
            }
            Self::BadJson { .. } => "fix the file, or move it away; nothing was changed".into(),
            Self::NoTarget { .. } => "pass the name of a binary or an example with --bin, or of its package with -p".into(),
            Self::NothingToDebug => "add ddp-runtime to the dependencies, or change to a project that depends on it".into(),
            Self::Stale(_) => {
                "run `cargo ddp vscode` with the same flags but without --check, and commit the result".into()
            }
            Self::RunsElsewhere(_) => "run the command on that machine".into(),
            Self::RunDir { .. } => {
                "choose another directory with --log-dir DIR, or with `log-dir` in [package.metadata.ddp]".into()
            }
            Self::NoRunFolder { .. } => "pass the number or the folder of a run, or the folder of all runs with --log-dir".into(),
            Self::NoEarlierRun { .. } => {
                "run the program first; --run chooses a run by its number or folder, and --bin another program".into()
            }
            Self::OtherProgram { .. } => "`cargo ddp runs` lists the runs with their commands; --bin chooses a program".into(),
            Self::NoSuchStep { .. } => "`cargo ddp runs` lists the last step of each run; steps count from 1".into(),
            Self::StepOutOfReach { .. } => {
                "`Snapshots::keep_every(K)`, or `--keep-every K` of a template, keeps one snapshot for every K steps".into()
            }
            Self::StepNotReached { .. } => {
                "the program must run as it did then: with the same arguments, settings and data".into()
            }
            Self::NoFeature(feature) => {
                format!("install with `cargo install cargo-ddp --features {feature}`; the default features include it")
            }
            Self::NoMetrics(_) => {
                "write metrics with `ddp_runtime::metrics::Metrics`, or with `.metrics(&metrics)` of a `Trainer`"
                    .into()
            }
            Self::BadMetrics { .. } => {
                "the file was edited, or a newer version wrote it: update with `cargo install cargo-ddp`".into()
            }
            Self::BadSecret(_) => "generate a secret with `openssl rand -hex 32`, and set the same one on all nodes".into(),
            Self::BadDebug(_) => "`cargo ddp vscode` writes launch configurations that set it".into(),
            Self::NotDebugged => {
                "start the launch configuration that `cargo ddp vscode` writes (ddp: attach to a running job)"
                    .into()
            }
            Self::JoinTaken(_) => "stop the other launcher first, with `cargo ddp stop` or by ending its debug session".into(),
            Self::NotJoined { .. } => {
                "start the compound (ddp: BIN, launcher + N workers) instead of only its launcher".into()
            }
            Self::OneRank(_) => "start the job with --nproc 2 or more".into(),
            Self::NoAnswer { listens: true, .. } => {
                "if a step takes longer, set --timeout; `cargo ddp attach` shows where each rank is".into()
            }
            Self::NoAnswer { listens: false, .. } => {
                "only a program whose training loop uses `ddp_runtime::Run` or `Trainer` answers; if it is still starting, \
                 set --timeout"
                    .into()
            }
            Self::JobEnded(_) => "`cargo ddp runs` shows how it ended".into(),
            Self::NoSuchGpu { .. } => "`nvidia-smi -L` lists the GPUs".into(),
            Self::NoDriver(_) => {
                "`--nproc N` runs N workers, on the CPU if there is no GPU".into()
            }
            Self::GpuNotVisible { .. } => "choose one of these GPUs, or unset CUDA_VISIBLE_DEVICES".into(),
            Self::BadLibtorch { .. } => {
                format!("set LIBTORCH to a libtorch {NEEDED}, or unset it to let `cargo ddp setup` find or fetch one")
            }
            Self::NoPython => format!(
                "install Python 3 with pip (for example `apt-get install python3-pip`), choose one with --python, \
                 or set LIBTORCH to a libtorch {NEEDED}"
            ),
            Self::BadPython { .. } => "choose another Python with --python".into(),
            Self::NoPip { .. } => {
                "install pip or venv (for example `apt-get install python3-pip python3-venv`), or choose another Python with \
                 --python"
                    .into()
            }
            Self::NoSpace { .. } => MORE_SPACE.into(),
            Self::Pip { fault, .. } => pip(*fault),
            Self::NoSnapshot { others, .. } | Self::NoSnapshotFolder { others, .. } => match others.as_slice() {
                [] => "pass a snapshot (a folder `step-…`) or a folder of snapshots; a run writes them with `Snapshots`".into(),
                [one] => format!("{} has snapshots", quote_path(one)),
                many => format!("these folders have snapshots: {}", list(many)),
            },
            Self::SnapshotsInUse { .. } => "wait for the other program to end, stop it, or choose another directory".into(),
            Self::Damaged { .. } => "`cargo ddp snapshot ls DIR` shows which snapshots are valid".into(),
            Self::BadTensorFile { help: Some(help), .. } => help.clone(),
            Self::BadTensorFile { help: None, .. } => {
                "write one in Python with `safetensors.torch.save_file(model.state_dict(), \"model.safetensors\")`".into()
            }
            Self::CantImport { help, .. } => help.clone(),
            Self::BadNames { .. } => {
                "expected JSON {\"from\": \"to\"} or TOML \"from\" = \"to\"; a pattern has one `*`: \"model.*\" = \"*\""
                    .into()
            }
            Self::NoCache => "set XDG_CACHE_HOME".into(),
            Self::UnsafeCache { .. } => {
                "set XDG_CACHE_HOME to your own folder (under sudo, HOME may still be another user's)".into()
            }
            Self::Rendezvous { .. } => {
                "start `cargo ddp` on every node with the same --nnodes, --master-addr (an address of node 0 that all nodes \
                 can reach) and --master-port, and with a different --node-rank; --join-timeout sets how long to wait"
                    .into()
            }
            Self::Output { .. } => "the command succeeded, but part of its output is lost: free space, or write elsewhere".into(),
            Self::Template { .. } => "this is a bug in cargo-ddp: please report it".into(),
            _ => return None,
        })
    }
}

fn pip(fault: PipFault) -> String {
    match fault {
        PipFault::Network => {
            "check the network (pip reads PIP_INDEX_URL and HTTPS_PROXY) and run the same command again to \
             continue, or set LIBTORCH to a libtorch that you downloaded elsewhere"
                .into()
        }
        PipFault::Disk => MORE_SPACE.into(),
        PipFault::NoWheel => format!(
            "torch {NEEDED} has no package for this Python or platform: choose another Python with --python (3.10 to \
             3.14), or set LIBTORCH to a libtorch {NEEDED}"
        ),
        PipFault::Hash => {
            "the download was damaged, or the package index or a proxy changed a package: try again, or set \
             LIBTORCH to a libtorch that you trust"
                .into()
        }
        PipFault::Other => "see pip's output above".into(),
    }
}
