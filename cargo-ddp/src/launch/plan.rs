use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ddp_contract::env;

use crate::{Error, Result};

/// What to run, and how: everything decided, nothing to look up.
#[derive(Clone, Debug)]
pub struct LaunchPlan {
    /// The workers' program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Number of workers, all on this node.
    pub nproc: usize,
    /// CUDA_VISIBLE_DEVICES for every worker; worker N uses the N-th of them. `None` leaves the variable as it is.
    pub gpus: Option<Vec<String>>,
    /// How often all workers may be restarted.
    pub max_restarts: u32,
    /// Time between asking workers to stop and killing them.
    pub grace: Duration,
    /// Name of the run.
    pub run_id: String,
    /// Folder for the workers' error files.
    pub run_dir: PathBuf,
    /// OMP_NUM_THREADS, unless the user set it.
    pub omp_num_threads: Option<usize>,
}

impl LaunchPlan {
    /// What is added to a worker's environment: torchrun's contract.
    pub fn worker_env(&self, rank: usize, attempt: u32, port: u16) -> Vec<(&'static str, OsString)> {
        let nproc = self.nproc.to_string();
        let rank_text = rank.to_string();
        let mut vars: Vec<(&str, OsString)> = [
            (env::RANK, rank_text.clone()),
            (env::LOCAL_RANK, rank_text.clone()),
            (env::WORLD_SIZE, nproc.clone()),
            (env::LOCAL_WORLD_SIZE, nproc.clone()),
            (env::GROUP_RANK, "0".into()),
            (env::GROUP_WORLD_SIZE, "1".into()),
            ("ROLE_NAME", "default".into()),
            ("ROLE_RANK", rank_text),
            ("ROLE_WORLD_SIZE", nproc),
            (env::MASTER_ADDR, "127.0.0.1".into()),
            (env::MASTER_PORT, port.to_string()),
            (env::RUN_ID, self.run_id.clone()),
            (env::RESTART_COUNT, attempt.to_string()),
            (env::MAX_RESTARTS, self.max_restarts.to_string()),
            // torchrun sets it as well: a failed NCCL collective ends the process instead of hanging.
            ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1".into()),
        ]
        .map(|(name, value)| (name, value.into()))
        .into();
        vars.push((env::ERROR_FILE, self.error_file(rank, attempt).into()));
        if let Some(gpus) = &self.gpus {
            vars.push((env::CUDA_VISIBLE_DEVICES, gpus.join(",").into()));
        }
        if let Some(threads) = self.omp_num_threads {
            vars.push((env::OMP_NUM_THREADS, threads.to_string().into()));
        }
        vars
    }

    /// Where a worker leaves the reason of its failure.
    pub fn error_file(&self, rank: usize, attempt: u32) -> PathBuf {
        self.run_dir.join(format!("attempt-{attempt}/rank-{rank}.error.json"))
    }

    /// The GPU of a worker, as its user named it.
    pub fn gpu_of(&self, rank: usize) -> Option<&str> {
        self.gpus.as_ref()?.get(rank).map(String::as_str)
    }
}

/// A folder of its own for a new run below `target`: its number, and its path.
///
/// # Errors
/// [`Error::System`].
pub fn new_run(target: &Path) -> Result<(u64, PathBuf)> {
    let runs = target.join("ddp/runs");
    let cant = || Error::system(format!("can't make a folder in {}", runs.display()));
    fs::create_dir_all(&runs).map_err(cant())?;
    let numbers =
        fs::read_dir(&runs).map_err(cant())?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut number: u64 = numbers.max().unwrap_or(0) + 1;
    loop {
        let path = runs.join(number.to_string());
        match fs::create_dir(&path) {
            Ok(()) => return Ok((number, path)),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(err) => return Err(cant()(err)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> LaunchPlan {
        LaunchPlan {
            program: "train".into(),
            args: vec![],
            nproc: 2,
            gpus: Some(vec!["2".into(), "3".into()]),
            max_restarts: 3,
            grace: Duration::from_secs(10),
            run_id: "run-7".into(),
            run_dir: "target/ddp/runs/7".into(),
            omp_num_threads: Some(4),
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
            ("TORCHELASTIC_ERROR_FILE", "target/ddp/runs/7/attempt-2/rank-1.error.json"),
            ("OMP_NUM_THREADS", "4"),
            ("CUDA_VISIBLE_DEVICES", "2,3"),
        ] {
            assert_eq!(get(name), Some(value), "{name}");
        }
    }

    #[test]
    fn without_gpus_the_users_list_is_left_alone() {
        let plan = LaunchPlan { gpus: None, omp_num_threads: None, ..plan() };
        let vars = plan.worker_env(0, 0, 1);
        assert!(vars.iter().all(|(name, _)| !["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"].contains(name)));
    }

    #[test]
    fn each_run_has_a_folder_of_its_own() {
        let target = tempfile::tempdir().unwrap();
        assert_eq!(new_run(target.path()).unwrap().0, 1);
        let (number, path) = new_run(target.path()).unwrap();
        assert_eq!((number, path.is_dir()), (2, true));
    }
}
