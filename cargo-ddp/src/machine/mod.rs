//! The machine that jobs run on: a snapshot of everything that a launch plan depends on.

pub(crate) mod cache;
pub mod gpus;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::num::NonZero;
use std::path::PathBuf;

use crate::os::interfaces::{self, Interface};
use crate::os::{cpus, host, loopback};
use gpus::Gpu;

/// What is known of the machine and of this process's environment. Read once, by commands; made by hand in tests.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Its name.
    pub(crate) host: String,
    /// Its GPUs, or why they can't be listed.
    pub(crate) gpus: Result<Vec<Gpu>, String>,
    /// Number of cores that this process may use, as the standard library counts them (with cgroup quotas).
    pub(crate) cores: usize,
    /// The numbers of these cores, if the kernel lists them.
    pub(crate) cpus: Option<Vec<usize>>,
    /// The cores of each NUMA node.
    pub(crate) numa_nodes: BTreeMap<u32, Vec<usize>>,
    /// The environment variables that decide about a launch.
    pub(crate) environment: Environment,
    /// Its network interfaces.
    pub(crate) interfaces: Vec<Interface>,
    /// Its address for itself.
    pub(crate) loopback: IpAddr,
    /// The working directory.
    pub(crate) folder: PathBuf,
    /// The directory of the user's cache, if there is one.
    pub(crate) cache: Option<PathBuf>,
    /// This process.
    pub(crate) pid: u32,
}

impl Machine {
    /// Looks at everything.
    pub(crate) fn read() -> Self {
        Self {
            host: host::name(),
            gpus: gpus::list_or_problem(),
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            cpus: cpus::own().ok(),
            numa_nodes: cpus::numa_nodes(),
            environment: Environment::read(),
            interfaces: interfaces::list(),
            loopback: loopback::address(),
            folder: std::env::current_dir().unwrap_or_default(),
            cache: cache::dir().ok(),
            pid: std::process::id(),
        }
    }
}

/// Environment variables. Their values may be secrets: they are not part of `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The beginnings of the names that matter for a launch.
    const PREFIXES: [&str; 6] = ["CUDA_", "DDP_", "GLOO_", "NCCL_", "OMP_", "TORCH"];

    fn read() -> Self {
        let vars = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self(vars.filter(|(name, _)| Self::PREFIXES.iter().any(|prefix| name.starts_with(prefix))).collect())
    }

    /// The value of a variable, also if it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsString::as_os_str)
    }

    /// The value of a variable that is neither missing nor empty.
    pub(crate) fn non_empty(&self, name: &str) -> Option<&OsStr> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The value of a variable that is UTF-8.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.to_str()
    }

    /// The names of all variables.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(vars: [(&str, &str); N]) -> Self {
        Self(vars.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
impl Machine {
    /// A machine without GPUs, with 8 cores on one NUMA node, and nothing set in the environment.
    pub(crate) fn example() -> Self {
        let cpus: Vec<usize> = (0..8).collect();
        let loopback = IpAddr::from([127, 0, 0, 1]);
        Self {
            host: "host".into(),
            gpus: Ok(vec![]),
            cores: 8,
            cpus: Some(cpus.clone()),
            numa_nodes: [(0, cpus)].into(),
            environment: Environment::default(),
            interfaces: vec![Interface { name: "lo".into(), index: 1, address: loopback }],
            loopback,
            folder: "/work".into(),
            cache: None,
            pid: 4711,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_shows_no_values() {
        let shown = format!("{:?}", Environment::from([("DDP_JOB_SECRET", "hunter2")]));
        assert_eq!(shown, r#"{"DDP_JOB_SECRET"}"#);
    }
}
