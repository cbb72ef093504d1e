//! Binds a worker to its cores and its memory.

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::launch::plan::Binding;

/// Binds the calling thread, and what it starts. Makes system calls only.
pub(super) fn bind(binding: &Binding) -> io::Result<()> {
    let mut set = CpuSet::new();
    binding.cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU).for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set)?;
    if let Some(node @ 0..64) = binding.node {
        /// From linux/mempolicy.h: from this node while it has memory, then from the others.
        const MPOL_PREFERRED: libc::c_int = 1;
        let mask: u64 = 1 << node;
        // SAFETY: `mask` has the 64 bits that are announced. (A kernel without NUMA refuses, and has one node.)
        unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_PREFERRED, &raw const mask, 64) };
    }
    Ok(())
}
