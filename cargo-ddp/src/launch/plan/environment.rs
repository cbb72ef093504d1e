//! What is added to a worker's environment: torchrun's contract.

use std::ffi::OsString;
use std::time::Duration;

use ddp_contract::env;

use super::{LaunchPlan, StorePort};
use crate::editor::debug::Debug;
use crate::os::interfaces;

const CUDA_DEVICE_ORDER: &str = "CUDA_DEVICE_ORDER";
const GLOO_SOCKET_IFNAME: &str = "GLOO_SOCKET_IFNAME";
/// How long ranks of a job that is debugged wait for each other: people look at breakpoints.
const DEBUG_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How long a worker waits for its debugger.
const WAIT_DEBUGGER: Duration = Duration::from_secs(120);

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
        if let Some(step) = self.at_step {
            vars.push((env::AT_STEP, step.to_string().into()));
            vars.push((env::AT_STEP_DIR, self.scratch_dir().into()));
        }
        if let Some(gpus) = &self.gpus {
            let divided = gpus.iter().any(|gpu| gpu.starts_with("MIG-"));
            let visible = if divided { gpus[local_rank].clone() } else { gpus.join(",") };
            vars.push((env::CUDA_VISIBLE_DEVICES, visible.into()));
            // The numbers are NVML's, and nvidia-smi's; CUDA alone would sort by speed.
            if !self.preset.contains(CUDA_DEVICE_ORDER) {
                vars.push((CUDA_DEVICE_ORDER, "PCI_BUS_ID".into()));
            }
        }
        // (On one node ddp-runtime chooses the loopback interface itself.)
        if (nodes.is_multi_node() || self.store == StorePort::Reserved)
            && !self.preset.contains(GLOO_SOCKET_IFNAME)
            && let Some(interface) = interfaces::with_address(&self.interfaces, nodes.address)
        {
            // By itself, Gloo takes whatever the machine's name resolves to: its loopback address, where the others can't reach
            // it, or an address that strangers can reach.
            vars.push((GLOO_SOCKET_IFNAME, interface.into()));
        }
        if let Some(threads) = self.omp_num_threads {
            vars.push((env::OMP_NUM_THREADS, threads.to_string().into()));
        }
        let unless_set = |name: &'static str, value: OsString| (!self.preset.contains(name)).then_some((name, value));
        vars.extend(unless_set(env::COLLECTIVES_FILE, self.collectives_file(attempt).into()));
        if self.debug.is_some() {
            vars.extend(unless_set(env::TIMEOUT, DEBUG_TIMEOUT.as_secs().to_string().into()));
            // NCCL's watchdog would end a process whose GPU waits for a peer at a breakpoint.
            vars.extend(unless_set("TORCH_NCCL_ENABLE_MONITORING", "0".into()));
        }
        match &self.debug {
            Some(Debug::Sessions(_)) => {
                vars.extend(unless_set(env::WAIT_DEBUGGER, WAIT_DEBUGGER.as_secs().to_string().into()));
            }
            Some(Debug::Join(join)) => vars.extend(join.group.iter().map(|group| (env::DEBUG_FOLDER, group.into()))),
            None => {}
        }
        vars
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::editor::debug::{Adapter, Join, Sessions};
    use crate::launch::nodes::Member;
    use crate::launch::plan::{Options, resolve};
    use crate::machine::Machine;

    fn plan() -> LaunchPlan {
        let options = Options { nproc: Some(super::super::Nproc::Count(2)), ..Options::default() };
        let mut plan = resolve(&options, &Machine::example()).unwrap().plan;
        plan.gpus = Some(vec!["2".into(), "3".into()]);
        plan.nodes.members[0].gpus = plan.gpus.clone();
        let plan = plan.with_program("train".into(), vec![], StorePort::Inherited);
        LaunchPlan { run_id: "run-7".into(), run_dir: "runs/7".into(), ..plan }
    }

    #[test]
    fn environment_has_torchruns_variables() {
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
    fn environment_of_a_second_node_has_ranks_after_the_firsts() {
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
    fn environment_binds_gloo_to_the_loopback_interface_of_a_single_node() {
        let interface = |store| {
            let vars = LaunchPlan { store, ..plan() }.worker_env(0, 0, 1);
            vars.into_iter().find(|(name, _)| *name == "GLOO_SOCKET_IFNAME").map(|(_, value)| value)
        };
        assert_eq!(interface(StorePort::Reserved), Some("lo".into()));
        assert_eq!(interface(StorePort::Inherited), None);
    }

    #[test]
    fn environment_of_a_debugged_job_has_long_timeouts() {
        let get = |debug, name: &str| {
            let vars = LaunchPlan { debug, ..plan() }.worker_env(0, 0, 1);
            vars.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.into_string().unwrap())
        };
        let sessions = Sessions::new(Adapter::LldbDap, Path::new("p"), "ddp_debug.py".into(), None);
        let sessions = Debug::Sessions(sessions);
        let join = |group: Option<&str>| Debug::Join(Join { folder: "x".into(), group: group.map(Into::into) });
        assert_eq!(get(Some(sessions.clone()), "DDP_TIMEOUT").as_deref(), Some("86400"));
        assert_eq!(get(Some(sessions.clone()), "TORCH_NCCL_ENABLE_MONITORING").as_deref(), Some("0"));
        assert_eq!(get(Some(sessions), "DDP_WAIT_DEBUGGER").as_deref(), Some("120"));
        assert_eq!(get(Some(join(None)), "DDP_WAIT_DEBUGGER"), None);
        assert_eq!(get(Some(join(None)), "DDP_DEBUG_FOLDER"), None);
        assert_eq!(get(Some(join(Some("x/group-1"))), "DDP_DEBUG_FOLDER"), Some("x/group-1".into()));
        assert_eq!(get(None, "DDP_TIMEOUT"), None);
    }

    #[test]
    fn environment_has_the_step_to_go_to_and_its_own_snapshots() {
        let vars = LaunchPlan { at_step: Some(43), ..plan() }.worker_env(0, 0, 1);
        assert!(vars.contains(&("DDP_AT_STEP", "43".into())));
        assert!(vars.contains(&("DDP_AT_STEP_DIR", "runs/7/snapshots".into())));
        assert!(plan().worker_env(0, 0, 1).iter().all(|(name, _)| !name.starts_with("DDP_AT_STEP")));
    }

    #[test]
    fn environment_shows_each_worker_its_own_mig_instance() {
        let plan = LaunchPlan { gpus: Some(vec!["MIG-a".into(), "MIG-b".into()]), ..plan() };
        let vars = plan.worker_env(1, 0, 1);
        assert!(vars.contains(&("CUDA_VISIBLE_DEVICES", "MIG-b".into())));
    }

    #[test]
    fn environment_keeps_cuda_visible_devices_without_gpus() {
        let plan = LaunchPlan { gpus: None, omp_num_threads: None, ..plan() };
        let vars = plan.worker_env(0, 0, 1);
        assert!(vars.iter().all(|(name, _)| !["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"].contains(name)));
    }

    #[test]
    fn environment_keeps_what_the_user_has_set() {
        let set = ["CUDA_DEVICE_ORDER", "DDP_TIMEOUT", "TORCH_FR_DUMP_TEMP_FILE", "GLOO_SOCKET_IFNAME"];
        let debug = Some(Debug::Join(Join { folder: "x".into(), group: None }));
        let plan = LaunchPlan { debug, store: StorePort::Reserved, ..plan() };
        let names = |plan: &LaunchPlan| plan.worker_env(0, 0, 1).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert!(set.iter().all(|name| names(&plan).contains(name)));
        let plan = LaunchPlan { preset: set.map(str::to_owned).into(), ..plan };
        assert!(!set.iter().any(|name| names(&plan).contains(name)));
    }
}
