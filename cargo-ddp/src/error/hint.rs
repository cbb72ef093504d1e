//! What to do about an error.

use std::path::Path;

use super::{Error, NEEDED, PipFault, is_not_a_program};
use crate::os::interpreter::Fault;
use crate::shell::quote_path;

impl Error {
    /// What the user can do, where there is a usual answer.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exists(_) => "choose another path, or remove it first; nothing was changed".into(),
            Self::BadName { suggestion, .. } => {
                format!("give another name with --name, for example `--name {suggestion}`")
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
            Self::BadSetting { .. } => "`cargo ddp run --help` lists the options and their values".into(),
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
                crate::os::descriptors::hint()
            }
            Self::NoRun { .. } | Self::ManyRuns(_) => "`cargo ddp ps` lists the running jobs".into(),
            Self::NoRunInProject(_) => {
                "give the name of one of these, or --all to consider the jobs of all projects".into()
            }
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
            Self::NoFeature(feature) => {
                format!("install it with `cargo install cargo-ddp --features {feature}`, which has it by default")
            }
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
                                      libtorch fetched elsewhere; run the same command again to continue"
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
            Self::NoSnapshot { others, .. } | Self::NoSnapshotFolder { others, .. } => match others.as_slice() {
                [] => "give a folder that has `step-…` folders, or one of these; a run writes them with `Snapshots`".into(),
                [one] => format!("{} has snapshots", quote_path(one)),
                many => format!("these folders have snapshots: {}", super::list(many)),
            },
            Self::SnapshotsInUse { .. } => "wait for that program to end, stop it, or give another directory".into(),
            Self::Damaged { .. } => "`cargo ddp snapshot ls DIR` lists which snapshots are valid".into(),
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
}
