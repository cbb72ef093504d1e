//! Names of the environment variables that a worker reads.
//!
//! The first group is torchrun's, with its meanings (see `torch/distributed/run.py`), so that workers also run under
//! torchrun. The `DDP_*` ones are set by `cargo ddp run` alone, and a worker does without them.

use std::time::Duration;

/// The longest time that a variable can set: C++ clocks end not far beyond 290 years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The time in a variable that holds seconds, such as [`TIMEOUT`]; `None` for an empty one, which is as good as unset.
///
/// ```
/// use std::time::Duration;
///
/// use ddp_contract::env::seconds;
///
/// assert_eq!(seconds(" 1800 "), Ok(Some(Duration::from_secs(1800))));
/// assert_eq!(seconds(""), Ok(None));
/// assert!(seconds("abc").is_err() && seconds("0").is_err() && seconds("-1").is_err() && seconds("1e19").is_err());
/// ```
///
/// # Errors
/// What is wrong with the value.
pub fn seconds(value: &str) -> Result<Option<Duration>, String> {
    let value = value.trim();
    if value.is_empty() {
        return Ok(None);
    }
    let time = value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match time {
        Some(Duration::ZERO) => Err("expected more than 0 seconds".into()),
        Some(time) if time <= LONGEST => Ok(Some(time)),
        _ => Err(format!("expected a number of seconds, at most {}", LONGEST.as_secs())),
    }
}

/// Number of this worker in the job, from 0.
pub const RANK: &str = "RANK";
/// Number of this worker on its node, from 0: the index of its GPU among those in `CUDA_VISIBLE_DEVICES`.
pub const LOCAL_RANK: &str = "LOCAL_RANK";
/// Number of workers in the job.
pub const WORLD_SIZE: &str = "WORLD_SIZE";
/// Number of workers on this node.
pub const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
/// Number of this node.
pub const GROUP_RANK: &str = "GROUP_RANK";
/// Number of nodes.
pub const GROUP_WORLD_SIZE: &str = "GROUP_WORLD_SIZE";
/// Host of the store where ranks meet.
pub const MASTER_ADDR: &str = "MASTER_ADDR";
/// Port of the store where ranks meet.
pub const MASTER_PORT: &str = "MASTER_PORT";
/// Name of the job.
pub const RUN_ID: &str = "TORCHELASTIC_RUN_ID";
/// How many times the job was restarted before this attempt.
pub const RESTART_COUNT: &str = "TORCHELASTIC_RESTART_COUNT";
/// How many times the job may be restarted.
pub const MAX_RESTARTS: &str = "TORCHELASTIC_MAX_RESTARTS";
/// Where a failing worker leaves an [`ErrorFile`](crate::ErrorFile).
pub const ERROR_FILE: &str = "TORCHELASTIC_ERROR_FILE";
/// "True" when torchrun's agent hosts the store, so that no rank does.
pub const USE_AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";
/// Where a worker writes c10d's list of recent collectives when one times out; its rank is appended.
pub const COLLECTIVES_FILE: &str = "TORCH_FR_DUMP_TEMP_FILE";
/// Number of threads for operators on the CPU.
pub const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";
/// The GPUs that the job may use.
pub const CUDA_VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// Descriptor of the listening socket behind `MASTER_PORT`, which rank 0 serves the store on.
pub const STORE_FD: &str = "DDP_STORE_FD";
/// Descriptor of the pipe for [events](crate::Event), one JSON object a line.
pub const EVENT_FD: &str = "DDP_EVENT_FD";
/// The folder of the run, where its logs are: metrics go there too.
pub const RUN_DIR: &str = "DDP_RUN_DIR";
/// The step at whose end all ranks stop: set by `cargo ddp run --at-step`, with [`AT_STEP_DIR`].
pub const AT_STEP: &str = "DDP_AT_STEP";
/// The folder of the run's snapshots, in place of the program's own.
pub const AT_STEP_DIR: &str = "DDP_AT_STEP_DIR";
/// Which diagnostics a worker prints, as a filter of tracing-subscriber's `EnvFilter`: `debug`, `ddp_runtime=trace`.
pub const LOG: &str = "DDP_LOG";
/// How diagnostics are printed: `text` (the default) or `json`, one object a line.
pub const LOG_FORMAT: &str = "DDP_LOG_FORMAT";
/// Set to anything but 0: errors from libtorch keep their C++ stack trace.
pub const BACKTRACE: &str = "DDP_BACKTRACE";

/// Set by a debugger's launch configuration for `cargo ddp run` and `attach`: `lldb-dap` or `codelldb` (a debug session
/// for each worker is opened through that adapter), or `compound` (the debugger starts the workers itself).
pub const DEBUG: &str = "DDP_DEBUG";
/// `on` (the default) or `off`, for `cargo ddp run` and `attach` under [`DEBUG`]: whether the debug sessions of all ranks stop
/// and continue together.
pub const DEBUG_GROUP: &str = "DDP_DEBUG_GROUP";
/// The folder where the debug sessions of all ranks meet, for a worker that a debugger has started: see [`JOIN`].
pub const DEBUG_FOLDER: &str = "DDP_DEBUG_FOLDER";
/// The descriptor of a socket from lldb-dap to the `cargo ddp debug-adapter` that runs it, which gets the reason of each
/// interrupt: one JSON object in a datagram.
pub const ADAPTER_FD: &str = "DDP_ADAPTER_FD";
/// Seconds that a worker waits for a debugger before its `main`.
pub const WAIT_DEBUGGER: &str = "DDP_WAIT_DEBUGGER";
/// Seconds that ranks wait for each other, in place of every other time-out: long, while people look at breakpoints.
pub const TIMEOUT: &str = "DDP_TIMEOUT";
/// The socket of a launcher that waits for its workers, which a debugger starts: see [`join`](crate::join).
pub const JOIN: &str = "DDP_JOIN";
/// The rank that a worker with [`JOIN`] requests.
pub const JOIN_RANK: &str = "DDP_JOIN_RANK";

/// The secret that the launchers of a job on several nodes share. Workers never see it.
pub const JOB_SECRET: &str = "DDP_JOB_SECRET";
/// A file that holds the secret, in place of [`JOB_SECRET`].
pub const JOB_SECRET_FILE: &str = "DDP_JOB_SECRET_FILE";
