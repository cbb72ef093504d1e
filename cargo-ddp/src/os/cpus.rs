//! The machine's cores and NUMA nodes: which there are, and how a process is bound to them.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this process may use.
pub(crate) fn own() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Binds the calling thread, and what it starts, to these cores, and its memory to a NUMA node. Makes system calls only.
pub(crate) fn bind(cpus: &[usize], node: Option<u32>) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU).for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set)?;
    if let Some(node @ 0..64) = node {
        /// From linux/mempolicy.h: from this node while it has memory, then from the others.
        const MPOL_PREFERRED: libc::c_int = 1;
        let mask: u64 = 1 << node;
        // SAFETY: `mask` has the 64 bits that are announced. (A kernel without NUMA refuses, and has one node.)
        unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_PREFERRED, &raw const mask, 64) };
    }
    Ok(())
}

/// The cores of each NUMA node.
pub(crate) fn numa_nodes() -> BTreeMap<u32, Vec<usize>> {
    let entries = fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let node = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let list = fs::read_to_string(entry.path().join("cpulist")).ok()?;
        Some((number, parse(&list)))
    };
    entries.filter_map(node).collect()
}

/// `0-3,8`.
pub(crate) fn parse(list: &str) -> Vec<usize> {
    let range = |entry: &str| {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_list_has_numbers_and_ranges() {
        assert_eq!(parse("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse(""), Vec::<usize>::new());
    }
}
