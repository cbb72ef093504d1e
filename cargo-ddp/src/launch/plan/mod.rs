//! What to run, and how.
//!
//! | file | what it does |
//! |---|---|
//! | `options` | what the user asks for |
//! | `resolve` | from options and the machine to a plan |
//! | `placement`, `binding` | GPUs, NUMA nodes and cores of the workers |
//! | `rendezvous` | where several nodes meet |
//! | `rules`, `show` | when to restart; whose output is shown |
//! | `environment` | what is added to a worker's environment |

pub(crate) mod binding;
mod environment;
mod note;
mod nproc;
mod options;
mod placement;
mod rendezvous;
mod resolve;
mod rules;
mod show;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use binding::Binding;
pub use note::Note;
pub use nproc::Nproc;
pub use options::Options;
pub use resolve::Resolved;
pub(crate) use resolve::resolve;
pub use rules::Rules;
pub use show::Show;

use super::nodes::{Nodes, Rendezvous};
use crate::editor::debug::Debug;
use crate::os::interfaces::Interface;
use crate::{Error, Result};

/// What to run, and how: everything decided, nothing to look up.
#[derive(Clone, Debug)]
pub struct LaunchPlan {
    /// The workers' program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What rank 0 gets of the port where ranks meet.
    pub store: StorePort,
    /// Name of the run.
    pub run_id: String,
    /// Directory for the workers' logs and error files.
    pub run_dir: PathBuf,
    /// The project that the job belongs to.
    pub project: PathBuf,
    /// The launcher's working directory.
    pub folder: PathBuf,
    /// Where running jobs are listed; `None`: nowhere.
    pub jobs_dir: Option<PathBuf>,
    /// Number of workers on this node.
    pub nproc: usize,
    /// All nodes, and which ranks they have. Until they have met, the others are assumed to have as many workers as this one.
    pub nodes: Nodes,
    /// Where they meet; `None` for a job on one node.
    pub rendezvous: Option<Rendezvous>,
    /// CUDA_VISIBLE_DEVICES for every worker; worker N uses the N-th of them. Of MIG instances, of which CUDA gives a
    /// process one, each worker sees only its own. `None` leaves the variable unchanged; an empty list hides all GPUs.
    pub gpus: Option<Vec<String>>,
    /// Where each worker runs; empty: anywhere.
    pub bindings: Vec<Binding>,
    /// OMP_NUM_THREADS, unless the user set it.
    pub omp_num_threads: Option<usize>,
    /// When to restart, and how long to wait for what.
    pub rules: Rules,
    /// The rank that has our standard input; the others have none.
    pub stdin: Option<usize>,
    /// Whose output is on the screen.
    pub show: Show,
    /// The step at whose end all ranks stop, with snapshots in the run's own directory.
    pub at_step: Option<u64>,
    /// How the workers are debugged, if they are.
    pub debug: Option<Debug>,
    /// The machine's network interfaces.
    pub(crate) interfaces: Vec<Interface>,
    /// Variables that the user has set, and that are not overridden.
    pub(crate) preset: BTreeSet<String>,
    /// Where an outer launcher (a scheduler's agent) looks for the cause of a failure.
    pub(crate) outer_error_file: Option<PathBuf>,
    /// Variables that are meant for this launcher alone: workers do not inherit them.
    pub withheld: Vec<String>,
}

/// What becomes of the port where ranks meet, which is ours before a worker starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorePort {
    /// Rank 0 inherits the listening socket: for workers of ddp-runtime. A rank that is early waits in its backlog.
    Inherited,
    /// Rank 0 opens the port itself, as under torchrun; until then it is reserved.
    Reserved,
}

impl LaunchPlan {
    /// The same plan for this program.
    #[must_use]
    pub fn with_program(self, program: PathBuf, args: Vec<OsString>, store: StorePort) -> Self {
        Self { program, args, store, ..self }
    }

    /// The same plan, with its files in this run's directory. `pid` tells it from jobs with the same number elsewhere.
    #[must_use]
    pub fn in_run(self, number: u64, run_dir: PathBuf, pid: u32) -> Self {
        Self { run_id: format!("run-{number}-{pid}"), run_dir, ..self }
    }

    /// The same plan with a debugger.
    ///
    /// # Errors
    /// [`Error::BadOption`] when the debugger can't start workers on several nodes.
    pub fn with_debugger(self, debug: Option<Debug>) -> Result<Self> {
        let mut rules = self.rules;
        if debug.is_some() {
            // A stalled rank may just be at a breakpoint.
            rules.stall_timeout = Some(Duration::ZERO);
        }
        if let Some(Debug::Join(_)) = &debug {
            if self.rendezvous.is_some() {
                let problem = "workers that a debugger starts are all on one node".into();
                return Err(Error::BadOption { option: "nnodes", problem });
            }
            // The debugger started the workers; the launcher can't start them again.
            rules.max_restarts = 0;
        }
        Ok(Self { debug, rules, ..self })
    }

    /// Where a worker writes why it failed.
    pub fn error_file(&self, rank: usize, attempt: u32) -> PathBuf {
        self.run_dir.join(format!("attempt-{attempt}/rank-{rank}.error.json"))
    }

    /// Where workers write c10d's list of recent collectives when one times out: each appends its rank. NCCL's own watchdog
    /// does so, too, and `torchfrtrace` reads such files.
    fn collectives_file(&self, attempt: u32) -> PathBuf {
        self.run_dir.join(format!("attempt-{attempt}/collectives-rank-"))
    }

    /// Where a job that goes to a step has its snapshots.
    pub fn scratch_dir(&self) -> PathBuf {
        self.run_dir.join("snapshots")
    }

    /// Where all that a worker writes to `stream` is kept.
    pub fn log_file(&self, rank: usize, attempt: u32, stream: &str) -> PathBuf {
        self.run_dir.join(format!("attempt-{attempt}/rank-{rank}.{stream}.log"))
    }

    /// Where the stacks of a worker's threads are written when the job stalls.
    pub fn stack_file(&self, rank: usize, attempt: u32) -> PathBuf {
        self.run_dir.join(format!("attempt-{attempt}/rank-{rank}.stacks.txt"))
    }

    /// The workers' command line, for people to read.
    pub fn command(&self) -> Vec<String> {
        let words = std::iter::once(self.program.as_os_str()).chain(self.args.iter().map(OsString::as_os_str));
        words.map(|word| word.to_string_lossy().into_owned()).collect()
    }

    /// The GPU of a worker, as its user named it.
    pub fn gpu_of(&self, rank: usize) -> Option<&str> {
        let (_, member) = self.nodes.of_rank(rank)?;
        member.gpus.as_ref()?.get(rank - member.first_rank).map(String::as_str)
    }

    /// The node of a worker, where there are several.
    pub fn node_of(&self, rank: usize) -> Option<String> {
        let (node, _) = self.nodes.of_rank(rank).filter(|_| self.nodes.is_multi_node())?;
        Some(self.nodes.name(node))
    }

    /// The ranks that run here.
    pub fn ranks(&self) -> Range<usize> {
        self.nodes.own_ranks()
    }

    /// A rank's number on this node.
    pub fn local(&self, rank: usize) -> usize {
        rank - self.ranks().start
    }

    /// Where this node's workers run: a binding for each, if there are any.
    pub(crate) fn binding_of(&self, rank: usize) -> Option<Binding> {
        self.bindings.get(self.local(rank)).cloned()
    }

    /// The program's name, for people.
    pub fn name(&self) -> String {
        let name = self.program.file_name().map(Path::new).unwrap_or(&self.program);
        name.to_string_lossy().into_owned()
    }
}
