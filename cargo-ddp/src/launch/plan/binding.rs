//! Which cores a worker runs on: those of its GPU's NUMA node, or its share of all.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where a worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The numbers of its cores.
    pub cpus: Vec<usize>,
    /// The NUMA node that its memory comes from while there is some.
    pub node: Option<u32>,
}

/// The cores that we may use ourselves.
pub fn own_cpus() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// A binding for each worker, whose GPU is attached to the node in `nodes` (`None`: no GPU, or a machine with one node).
/// Workers of one node share its cores evenly; there is never a core that two workers have, unless there are too few.
pub fn bind(nodes: &[Option<u32>], cpus: &[usize], cpus_of: impl Fn(u32) -> Vec<usize>) -> Vec<Binding> {
    let place = |worker: usize| {
        let node = nodes[worker];
        let near: Vec<_> = match node {
            Some(node) => cpus_of(node).into_iter().filter(|cpu| cpus.contains(cpu)).collect(),
            None => cpus.to_vec(),
        };
        // A node whose cores are denied to us is none.
        let (node, near) = if near.is_empty() { (None, cpus.to_vec()) } else { (node, near) };
        let neighbours: Vec<_> = (0..nodes.len()).filter(|&other| nodes[other] == nodes[worker]).collect();
        let position = neighbours.iter().position(|&other| other == worker).unwrap_or(0);
        Binding { cpus: share(&near, position, neighbours.len()), node }
    };
    (0..nodes.len()).map(place).collect()
}

fn share(cpus: &[usize], position: usize, of: usize) -> Vec<usize> {
    if cpus.len() < of {
        return vec![cpus[position % cpus.len()]];
    }
    cpus[cpus.len() * position / of..cpus.len() * (position + 1) / of].to_vec()
}

/// The kernel's list of a node's cores.
pub fn cpus_of_node(node: u32) -> Vec<usize> {
    let list = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist")).unwrap_or_default();
    parse(&list)
}

/// `0-3,8`.
fn parse(list: &str) -> Vec<usize> {
    let range = |entry: &str| {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

impl Binding {
    /// `CPUs 0-3 (NUMA node 0)`.
    pub fn words(&self) -> String {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for &cpu in &self.cpus {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let text = |(first, last): &(usize, usize)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        let list: Vec<_> = ranges.iter().map(text).collect();
        let cpus = if self.cpus.len() == 1 { "CPU" } else { "CPUs" };
        let node = self.node.map_or(String::new(), |node| format!(" (NUMA node {node})"));
        format!("{cpus} {}{node}", list.join(","))
    }

    /// Binds the calling thread, and what it starts. Makes system calls only.
    pub(crate) fn apply(&self) -> io::Result<()> {
        let mut set = CpuSet::new();
        self.cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU).for_each(|&cpu| set.set(cpu));
        sched_setaffinity(None, &set)?;
        if let Some(node @ 0..64) = self.node {
            /// From linux/mempolicy.h: from this node while it has memory, then from the others.
            const MPOL_PREFERRED: libc::c_int = 1;
            let mask: u64 = 1 << node;
            // SAFETY: `mask` has the 64 bits that are announced. (A kernel without NUMA refuses, and has one node.)
            unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_PREFERRED, &raw const mask, 64) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_without_gpus_share_all_cores_evenly() {
        let cpus: Vec<_> = (0..8).collect();
        let bindings = bind(&[None, None, None], &cpus, |_| vec![]);
        let words: Vec<_> = bindings.iter().map(Binding::words).collect();
        assert_eq!(words, ["CPUs 0-1", "CPUs 2-4", "CPUs 5-7"]);
        let few = bind(&[None, None, None], &[4, 6], |_| vec![]);
        assert_eq!(few.iter().map(Binding::words).collect::<Vec<_>>(), ["CPU 4", "CPU 6", "CPU 4"]);
    }

    #[test]
    fn workers_with_gpus_share_the_cores_of_their_node() {
        let cpus: Vec<_> = (0..16).filter(|cpu| *cpu != 9).collect();
        let node = |node: u32| parse(["0-3,8-11", "4-7,12-15", ""][node as usize]);
        let bindings = bind(&[Some(0), Some(1), Some(0), Some(2)], &cpus, node);
        let words: Vec<_> = bindings.iter().map(Binding::words).collect();
        let shares = ["CPUs 0-2 (NUMA node 0)", "CPUs 4-7,12-15 (NUMA node 1)", "CPUs 3,8,10-11 (NUMA node 0)"];
        assert_eq!(words[..3], shares);
        assert_eq!(bindings[3], Binding { cpus, node: None }, "a node without cores for us is none");
    }
}
