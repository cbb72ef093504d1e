//! The errors of this crate, their texts and their hints.

use std::ffi::{CStr, NulError};
use std::io;
use std::path::{Path, PathBuf};

use ddp_contract::{LOST_PEER, env, snapshot};

use crate::sys;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What Gloo and the TCPStore report when a peer's process has ended.
const CLOSED: [&str; 4] =
    ["Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection was likely closed"];

/// What can go wrong in a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Some of torchrun's variables are set, and this one is not.
    #[error("{name} is not set, but {present} is")]
    MissingVariable {
        /// The variable that is missing.
        name: &'static str,
        /// One that is set.
        present: &'static str,
    },
    /// A variable has an invalid value.
    #[error("invalid {name} `{}`: {problem}", value.escape_debug())]
    BadVariable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The job has GPUs, and this worker finds no CUDA: it would train on the CPU.
    #[error("{}={visible} names GPUs, but {}", env::CUDA_VISIBLE_DEVICES, match is_built {
        true => "CUDA found none",
        false => "this program was built with a libtorch without CUDA",
    })]
    NoCuda {
        /// CUDA_VISIBLE_DEVICES.
        visible: String,
        /// Whether libtorch has CUDA.
        is_built: bool,
    },
    /// An error of libtorch.
    #[error("{operation}: {message}")]
    Torch {
        /// What was tried.
        operation: &'static str,
        /// libtorch's first line (all of it with `DDP_BACKTRACE=1`).
        message: String,
    },
    /// A peer's process ended while this rank waited for it. The peer's error is the cause.
    #[error("{LOST_PEER} during {operation}; the peer exited first")]
    LostPeer {
        /// What was tried.
        operation: &'static str,
        /// What Gloo or the store reported.
        detail: String,
    },
    /// Other ranks did not take part in time.
    #[error("{operation} timed out: {message}")]
    Timeout {
        /// What was tried.
        operation: &'static str,
        /// libtorch's first line (all of it with `DDP_BACKTRACE=1`).
        message: String,
    },
    /// A rank that the group does not have.
    #[error("rank {rank} is out of range: the group has {world_size} ranks")]
    RankOutOfRange {
        /// The rank asked for.
        rank: usize,
        /// The number of ranks.
        world_size: usize,
    },
    /// Ranks called different collectives, or the same one with tensors that do not match.
    #[error("collective mismatch: rank {rank} {there}, rank 0 {here}")]
    CallsDiffer {
        /// The first rank that differs.
        rank: usize,
        /// What that rank called.
        there: String,
        /// What rank 0 called.
        here: String,
    },
    /// Models differ between ranks.
    #[error("the model of rank {rank} differs from rank 0's: rank {rank} has {there}, rank 0 has {here}")]
    ModelsDiffer {
        /// The first rank that differs.
        rank: usize,
        /// The first tensor that differs, on that rank: name, shape, dtype and, unless it is contiguous, strides.
        there: String,
        /// What rank 0 has in its place.
        here: String,
    },
    /// Parameters were added, frozen, unfrozen or converted after [`Ddp::new`](crate::Ddp::new).
    #[error(
        "the model changed after `Ddp::new`: {changes}, so gradients would not be averaged; make such changes before it, \
         or create a new `Ddp` and optimizer"
    )]
    ModelChanged {
        /// Which parameters, and how.
        changes: String,
    },
    /// A loss that does not depend on all parameters, so that no gradient was averaged.
    #[error(
        "the loss of this step does not depend on {}, so gradients were not averaged; if steps may skip parameters, set \
         `find_unused_parameters` in `DdpOptions`",
        parameters.join(", ")
    )]
    UnusedParameters {
        /// The parameters that got no gradient, in the model's order.
        parameters: Vec<String>,
    },
    /// Ranks logged different metrics.
    #[error("metrics mismatch: rank {rank} {there}, rank 0 {here}")]
    MetricsDiffer {
        /// The first rank that differs.
        rank: usize,
        /// The first thing in which that rank differs.
        there: String,
        /// What rank 0 did instead.
        here: String,
    },
    /// Metrics could not be exchanged.
    #[error(transparent)]
    Metrics(std::sync::Arc<Self>),
    /// The model has nothing to train.
    #[error("the model has no parameter that requires a gradient")]
    NoParameters,
    /// A snapshot does not match what it is loaded into.
    #[error("can't load {what}: {problem}")]
    StateMismatch {
        /// Which state.
        what: String,
        /// The tensor or value, and what is wrong with it.
        problem: String,
    },
    /// An I/O error on a file or folder.
    #[error("{action} {}: {reason}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
    /// No space for a snapshot.
    #[error("no space left to write {}; earlier snapshots are complete", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// Another program is writing snapshots to the same directory.
    #[error(
        "can't save snapshots to `{}`: {problem}",
        dir.display()
    )]
    SnapshotsInUse {
        /// The directory.
        dir: PathBuf,
        /// Who uses it.
        problem: String,
    },
    /// The loss is not a finite number, and the [policy](crate::NonFinite) is to end then.
    #[error("the loss of rank {rank} is not a finite number at step {step}{}",
        if *weights { ", and neither are the model's weights" } else { "" })]
    NonFiniteLoss {
        /// The first rank with such a loss.
        rank: usize,
        /// The number of the optimizer step, over all epochs, which was not taken.
        step: u64,
        /// Whether the weights have such values, too.
        weights: bool,
    },
    /// The run was asked to stop, has saved a snapshot on all ranks, and resumes from it when it is started again.
    #[error("asked to stop: saved step {step} to {}", snapshot.display())]
    Preempted {
        /// Optimizer steps done.
        step: u64,
        /// The snapshot's folder.
        snapshot: PathBuf,
    },
    /// The job has reached the step of `cargo ddp run --at-step`, and has saved it on all ranks.
    #[error("reached step {step}: saved to {}", snapshot.display())]
    AtStep {
        /// Optimizer steps done.
        step: u64,
        /// The snapshot's folder.
        snapshot: PathBuf,
    },
    /// No snapshot of the directory can be loaded.
    #[error("no valid snapshot in `{}`; the newest is `{}`: {damage}", dir.display(), newest.display())]
    NoValidSnapshot {
        /// Where they are.
        dir: PathBuf,
        /// The newest.
        newest: PathBuf,
        /// What is wrong with it.
        damage: snapshot::SnapshotError,
    },
    /// An operation failed on another rank, and therefore on this one.
    #[error("{operation} failed on rank {rank}: {message}")]
    OnRank {
        /// What was tried.
        operation: &'static str,
        /// The first rank that failed.
        rank: usize,
        /// Its error.
        message: String,
    },
    /// A sample could not be loaded.
    #[error("sample {index}: {reason}")]
    Sample {
        /// The sample's index in the dataset.
        index: usize,
        /// Why.
        reason: Box<Self>,
    },
    /// A batch could not be loaded.
    #[error("batch of samples {}: {reason}", preview(indices))]
    Batch {
        /// The indices that were asked for.
        indices: Vec<i64>,
        /// Why.
        reason: Box<Self>,
    },
    /// A dataset panicked while it was read, or a communication hook while it ran.
    #[error("panicked{}: {message}", location.as_ref().map(|place| format!(" at {place}")).unwrap_or_default())]
    Panicked {
        /// The panic's message.
        message: String,
        /// Where it panicked (`file:line:column`): known to programs that run in [`main`](crate::main).
        location: Option<String>,
    },
    /// A file with invalid content.
    #[error("{}: {problem}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The program's own error, such as a dataset's: see [`Error::other`].
    #[error("{0:#}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
    /// An invalid argument.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// What to do about it, if there is a usual answer.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::MissingVariable { .. } | Self::BadVariable { .. } => {
                "start workers with `cargo ddp run` or torchrun, which set all of torchrun's variables; \
                 without any of them, the program runs as a single worker"
                    .into()
            }
            Self::Torch { message, .. } if message.contains("no GPUs found") => {
                format!("NCCL needs a GPU: check `nvidia-smi` and {}", env::CUDA_VISIBLE_DEVICES)
            }
            Self::NoCuda { is_built, .. } => {
                let fix = match is_built {
                    true => "check the driver (`nvidia-smi`), and that these GPUs exist",
                    false => "run `cargo ddp setup --cuda` and build again",
                };
                format!("{fix}; set {}= (empty) to train on the CPU", env::CUDA_VISIBLE_DEVICES)
            }
            Self::LostPeer { .. } => "the first rank that failed is the cause: see its last lines".into(),
            Self::Timeout { .. } => "a rank is missing or busy: see the last lines of the other ranks".into(),
            Self::ModelChanged { .. } => {
                "to freeze parameters temporarily, set `find_unused_parameters` in `DdpOptions`".into()
            }
            Self::UnusedParameters { .. } => {
                "use every parameter in each step's loss, freeze the others before `Ddp::new`, or set \
                 `find_unused_parameters` in `DdpOptions`"
                    .into()
            }
            Self::MetricsDiffer { .. } => {
                "log the same names at the same steps on every rank; use `log_rank0` for what only rank 0 has".into()
            }
            Self::Metrics(reason) => return reason.hint(),
            Self::Sample { reason, .. } | Self::Batch { reason, .. } => return reason.hint(),
            Self::BadFile { problem, .. } if problem.contains("gzip") => "unpack the file with gunzip".into(),
            Self::NoValidSnapshot { dir, .. } => {
                format!("move the damaged snapshots out of `{}` to start from scratch", dir.display())
            }
            Self::NonFiniteLoss { .. } => "lower the learning rate, clip the gradients, or look for bad samples; \
                 move the snapshots after that step away to resume from an earlier one"
                .into(),
            Self::SnapshotsInUse { .. } => {
                "wait for that program to finish, stop it, or use a different directory".into()
            }
            Self::DiskFull { .. } => "free some space, or keep fewer snapshots (`keep_last`)".into(),
            Self::StateMismatch { .. } => {
                "use a different directory for snapshots, or load them into the model that saved them".into()
            }
            _ => return None,
        })
    }

    /// libtorch's error, or ours if a peer's process has ended.
    fn torch(operation: &'static str, message: String) -> Self {
        match CLOSED.iter().any(|words| message.contains(words)) {
            true => Self::LostPeer { operation, detail: message },
            false => Self::Torch { operation, message },
        }
    }

    /// Wraps any other error, such as those of a [`Dataset`](crate::data::Dataset).
    pub fn other(err: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(err.into())
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |reason| Self::Io { action, path, reason }
    }

    /// An error of writing `path`.
    pub(crate) fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| match reason.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { action: "can't write", path, reason },
        }
    }

    /// An error of tch, without its C++ stack trace.
    pub(crate) fn tch(operation: &'static str) -> impl Fn(tch::TchError) -> Self {
        move |err| Self::torch(operation, without_trace(&err.to_string()))
    }
}

impl From<NulError> for Error {
    fn from(err: NulError) -> Self {
        Self::Invalid(format!("a name contains a NUL character: {err}"))
    }
}

/// Calls a function of the C ABI with an error slot, and turns its status into a result.
pub(crate) fn check(operation: &'static str, call: impl FnOnce(*mut sys::ddp_error) -> i32) -> Result<()> {
    let mut slot = sys::ddp_error { message: std::ptr::null_mut() };
    let status = call(&mut slot);
    if status == sys::DDP_OK {
        return Ok(());
    }
    let message = if slot.message.is_null() {
        "libtorch gave no reason".to_owned()
    } else {
        // SAFETY: a slot that is not null holds a C string until it is cleared below.
        unsafe { CStr::from_ptr(slot.message) }.to_string_lossy().into_owned()
    };
    // SAFETY: `slot` is a live slot; clearing an empty one does nothing.
    unsafe { sys::ddp_error_clear(&mut slot) };
    Err(match status {
        sys::DDP_TIMEOUT => Error::Timeout { operation, message },
        sys::DDP_UNUSED => Error::UnusedParameters { parameters: message.lines().map(str::to_owned).collect() },
        _ => Error::torch(operation, message),
    })
}

/// The first few of a batch's indices, and how many there are.
fn preview(indices: &[i64]) -> String {
    const SHOWN: usize = 8;
    let first: Vec<String> = indices.iter().take(SHOWN).map(ToString::to_string).collect();
    match indices.len() {
        0..=SHOWN => first.join(", "),
        len => format!("{}, … ({len} in all)", first.join(", ")),
    }
}

/// `message` without libtorch's C++ stack trace, unless `DDP_BACKTRACE` asks for it.
pub(crate) fn without_trace(message: &str) -> String {
    if std::env::var(env::BACKTRACE).is_ok_and(|value| !value.is_empty() && value != "0") {
        return message.to_owned();
    }
    // A panic of tch formats the message with Debug, which escapes line ends.
    let starts = ["Exception raised from", "frame #0: "].iter().filter_map(|words| message.find(words));
    let end = starts.min().unwrap_or(message.len());
    message[..end].trim_end_matches("\\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests;
