pub(crate) mod binding;

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ddp_contract::env;

use super::nodes::Nodes;
use crate::editor::debug::Debug;
use crate::launch::plan::binding::Binding;
use crate::launch::supervise::dispatch::Rules;

const CUDA_DEVICE_ORDER: &str = "CUDA_DEVICE_ORDER";
const GLOO_SOCKET_IFNAME: &str = "GLOO_SOCKET_IFNAME";
/// How long ranks of a job that is debugged wait for each other: people look at breakpoints.
const DEBUG_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How long a worker waits for its debugger.
const WAIT_DEBUGGER: Duration = Duration::from_secs(120);

/// What to run, and how: everything decided, nothing to look up.
#[derive(Clone, Debug)]
pub struct LaunchPlan {
    /// The workers' program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Number of workers on this node.
    pub nproc: usize,
    /// All nodes, and which ranks they have.
    pub nodes: Nodes,
    /// CUDA_VISIBLE_DEVICES for every worker; worker N uses the N-th of them. Of MIG instances, of which CUDA gives a
    /// process one, each worker sees its own alone. `None` leaves the variable unchanged; an empty list hides all GPUs.
    pub gpus: Option<Vec<String>>,
    /// Where each worker runs; empty: anywhere.
    pub bindings: Vec<Binding>,
    /// When to restart, and how long to wait for what.
    pub rules: Rules,
    /// Name of the run.
    pub run_id: String,
    /// Folder for the workers' logs and error files.
    pub run_dir: PathBuf,
    /// OMP_NUM_THREADS, unless the user set it.
    pub omp_num_threads: Option<usize>,
    /// The rank that has our standard input; the others have none.
    pub stdin: Option<usize>,
    /// Whose output is on the screen.
    pub show: Show,
    /// What rank 0 gets of the port where ranks meet.
    pub store: StorePort,
    /// How the workers are debugged, if they are.
    pub debug: Option<Debug>,
    /// Variables that are meant for this launcher alone: workers do not inherit them.
    pub withheld: Vec<String>,
}

/// What becomes of the port where ranks meet, which is ours before a worker starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorePort {
    /// Rank 0 inherits the listening socket: for workers of ddp-runtime. A rank that is earlier waits in its backlog.
    Inherited,
    /// Rank 0 opens the port itself, as under torchrun; until then it is reserved.
    Reserved,
}

/// Ranks whose output is on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// Every rank's.
    All,
    /// These ranks'; none's, if it is empty.
    Only(Vec<usize>),
}

impl Show {
    /// Whether the rank's output is on the screen.
    pub fn has(&self, rank: usize) -> bool {
        match self {
            Self::All => true,
            Self::Only(ranks) => ranks.contains(&rank),
        }
    }
}

impl std::str::FromStr for Show {
    type Err = String;

    /// `all`, `none`, or ranks: `0,1`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "all" => Ok(Self::All),
            "none" => Ok(Self::Only(Vec::new())),
            ranks => {
                let rank = |rank: &str| {
                    rank.trim().parse().map_err(|_| format!("{rank:?} is no rank; it takes all, none, or ranks: 0,1"))
                };
                Ok(Self::Only(ranks.split(',').map(rank).collect::<Result<_, _>>()?))
            }
        }
    }
}

impl LaunchPlan {
    /// What is added to a worker's environment: torchrun's contract.
    pub fn worker_env(&self, rank: usize, attempt: u32, port: u16) -> Vec<(&'static str, OsString)> {
        let (local_rank, nodes) = (self.local(rank), &self.nodes);
        let (nproc, world_size) = (self.nproc.to_string(), nodes.world_size().to_string());
        let rank_text = rank.to_string();
        let mut vars: Vec<(&str, OsString)> = [
            (env::RANK, rank_text.clone()),
            (env::LOCAL_RANK, local_rank.to_string()),
            (env::WORLD_SIZE, world_size.clone()),
            (env::LOCAL_WORLD_SIZE, nproc),
            (env::GROUP_RANK, nodes.own.to_string()),
            (env::GROUP_WORLD_SIZE, nodes.members.len().to_string()),
            ("ROLE_NAME", "default".into()),
            ("ROLE_RANK", rank_text),
            ("ROLE_WORLD_SIZE", world_size),
            (env::MASTER_ADDR, nodes.master_addr.clone()),
            (env::MASTER_PORT, port.to_string()),
            (env::RUN_ID, self.run_id.clone()),
            (env::RESTART_COUNT, attempt.to_string()),
            (env::MAX_RESTARTS, self.rules.max_restarts.to_string()),
            ("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT".into()),
            // torchrun sets it as well: a failed NCCL collective ends the process instead of hanging.
            ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1".into()),
        ]
        .map(|(name, value)| (name, value.into()))
        .into();
        vars.push((env::ERROR_FILE, self.error_file(rank, attempt).into()));
        vars.push((env::RUN_DIR, self.run_dir.clone().into()));
        if let Some(gpus) = &self.gpus {
            let divided = gpus.iter().any(|gpu| gpu.starts_with("MIG-"));
            let visible = if divided { gpus[local_rank].clone() } else { gpus.join(",") };
            vars.push((env::CUDA_VISIBLE_DEVICES, visible.into()));
            // The numbers are NVML's, and nvidia-smi's; CUDA alone would sort by speed.
            if std::env::var_os(CUDA_DEVICE_ORDER).is_none() {
                vars.push((CUDA_DEVICE_ORDER, "PCI_BUS_ID".into()));
            }
        }
        // (On one node ddp-runtime chooses the loopback interface itself.)
        if (nodes.are_several() || self.store == StorePort::Reserved)
            && std::env::var_os(GLOO_SOCKET_IFNAME).is_none()
            && let Some(interface) = nodes.interface()
        {
            // By itself, Gloo takes whatever the machine's name leads to: its loopback address where the others can't reach
            // it, or an address that strangers can reach.
            vars.push((GLOO_SOCKET_IFNAME, interface.into()));
        }
        if let Some(threads) = self.omp_num_threads {
            vars.push((env::OMP_NUM_THREADS, threads.to_string().into()));
        }
        let unless_set =
            |name: &'static str, value: OsString| std::env::var_os(name).is_none().then_some((name, value));
        vars.extend(unless_set(env::COLLECTIVES_FILE, self.collectives_file(attempt).into()));
        if self.debug.is_some() {
            vars.extend(unless_set(env::TIMEOUT, DEBUG_TIMEOUT.as_secs().to_string().into()));
            // NCCL's watchdog would end a process whose GPU waits for a peer at a breakpoint.
            vars.extend(unless_set("TORCH_NCCL_ENABLE_MONITORING", "0".into()));
        }
        if let Some(Debug::Sessions(_)) = &self.debug {
            vars.extend(unless_set(env::WAIT_DEBUGGER, WAIT_DEBUGGER.as_secs().to_string().into()));
        }
        vars
    }

    /// Where a worker leaves the reason of its failure.
    pub fn error_file(&self, rank: usize, attempt: u32) -> PathBuf {
        self.run_dir.join(format!("attempt-{attempt}/rank-{rank}.error.json"))
    }

    /// Where workers write c10d's list of recent collectives when one times out: each appends its rank. NCCL's own watchdog
    /// does so, too, and `torchfrtrace` reads such files.
    fn collectives_file(&self, attempt: u32) -> PathBuf {
        self.run_dir.join(format!("attempt-{attempt}/collectives-rank-"))
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
        let (node, _) = self.nodes.of_rank(rank).filter(|_| self.nodes.are_several())?;
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::editor::debug::{Adapter, Sessions};
    use crate::launch::nodes::Member;

    fn plan() -> LaunchPlan {
        LaunchPlan {
            program: "train".into(),
            args: vec![],
            nproc: 2,
            nodes: Nodes::one(2, Some(vec!["2".into(), "3".into()])),
            gpus: Some(vec!["2".into(), "3".into()]),
            bindings: vec![],
            rules: Rules::default(),
            run_id: "run-7".into(),
            run_dir: "runs/7".into(),
            omp_num_threads: Some(4),
            stdin: None,
            show: Show::All,
            store: StorePort::Inherited,
            debug: None,
            withheld: vec![],
        }
    }

    #[test]
    fn the_environment_is_torchruns() {
        let vars = plan().worker_env(1, 2, 29500);
        let get = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_str().unwrap());
        for (name, value) in [
            ("RANK", "1"),
            ("LOCAL_RANK", "1"),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("GROUP_RANK", "0"),
            ("GROUP_WORLD_SIZE", "1"),
            ("ROLE_RANK", "1"),
            ("ROLE_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_RUN_ID", "run-7"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("TORCHELASTIC_MAX_RESTARTS", "3"),
            ("TORCHELASTIC_ERROR_FILE", "runs/7/attempt-2/rank-1.error.json"),
            ("OMP_NUM_THREADS", "4"),
            ("DDP_RUN_DIR", "runs/7"),
            ("CUDA_VISIBLE_DEVICES", "2,3"),
            ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        ] {
            assert_eq!(get(name), Some(value), "{name}");
        }
    }

    #[test]
    fn the_ranks_of_a_second_node_come_after_the_firsts() {
        let mut plan = plan();
        let member = |first_rank, nproc, gpus| Member { host: "h".into(), first_rank, nproc, gpus };
        plan.nodes.members = vec![member(0, 3, None), member(3, 2, plan.gpus.clone())];
        (plan.nodes.own, plan.nodes.master_addr) = (1, "10.0.0.1".into());
        let vars = plan.worker_env(4, 0, 29501);
        let get = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_str().unwrap());
        for (name, value) in [
            ("RANK", "4"),
            ("LOCAL_RANK", "1"),
            ("WORLD_SIZE", "5"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("GROUP_RANK", "1"),
            ("GROUP_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "10.0.0.1"),
            ("MASTER_PORT", "29501"),
        ] {
            assert_eq!(get(name), Some(value), "{name}");
        }
        assert_eq!((plan.gpu_of(4), plan.gpu_of(0)), (Some("3"), None));
        assert_eq!((plan.ranks(), plan.node_of(1).as_deref()), (3..5, Some("node 0 (h)")));
    }

    #[test]
    fn gloo_stays_on_the_loopback_interface_of_a_single_node() {
        let interface = |store| {
            let vars = LaunchPlan { store, ..plan() }.worker_env(0, 0, 1);
            vars.into_iter().find(|(name, _)| *name == "GLOO_SOCKET_IFNAME").map(|(_, value)| value)
        };
        assert_eq!(interface(StorePort::Reserved), Some("lo".into()));
        assert_eq!(interface(StorePort::Inherited), None);
    }

    #[test]
    fn a_job_that_is_debugged_has_time() {
        let get = |debug, name: &str| {
            let vars = LaunchPlan { debug, ..plan() }.worker_env(0, 0, 1);
            vars.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.into_string().unwrap())
        };
        let sessions = Debug::Sessions(Sessions::new(Adapter::LldbDap, "ddp_debug.py".into()));
        assert_eq!(get(Some(sessions.clone()), "DDP_TIMEOUT").as_deref(), Some("86400"));
        assert_eq!(get(Some(sessions.clone()), "TORCH_NCCL_ENABLE_MONITORING").as_deref(), Some("0"));
        assert_eq!(get(Some(sessions), "DDP_WAIT_DEBUGGER").as_deref(), Some("120"));
        assert_eq!(get(Some(Debug::Join("x".into())), "DDP_WAIT_DEBUGGER"), None);
        assert_eq!(get(None, "DDP_TIMEOUT"), None);
    }

    #[test]
    fn of_mig_instances_each_worker_sees_its_own() {
        let plan = LaunchPlan { gpus: Some(vec!["MIG-a".into(), "MIG-b".into()]), ..plan() };
        let vars = plan.worker_env(1, 0, 1);
        assert!(vars.contains(&("CUDA_VISIBLE_DEVICES", "MIG-b".into())));
    }

    #[test]
    fn without_gpus_the_users_list_is_left_alone() {
        let plan = LaunchPlan { gpus: None, omp_num_threads: None, ..plan() };
        let vars = plan.worker_env(0, 0, 1);
        assert!(vars.iter().all(|(name, _)| !["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"].contains(name)));
    }

    #[test]
    fn ranks_to_show_are_a_word_or_a_list() {
        let parse = |text: &str| text.parse::<Show>();
        assert_eq!(parse("all"), Ok(Show::All));
        assert_eq!(parse("none"), Ok(Show::Only(vec![])));
        assert_eq!(parse("0, 2"), Ok(Show::Only(vec![0, 2])));
        assert!(parse("first").is_err() && parse("").is_err());
    }
}
