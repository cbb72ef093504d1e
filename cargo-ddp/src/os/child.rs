//! What a child process does between fork and exec, so that it never outlives us, inherits nothing, and can be debugged.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{PTracer, Pid, Signal, getpid, getppid, set_parent_process_death_signal, set_ptracer};

/// Has the kernel kill the child when this thread ends, however that happens.
///
/// The child must be spawned from a thread that lives as long as it should: the main one.
pub fn dies_with_parent(command: &mut Command) {
    let parent = getpid();
    // SAFETY: the closure runs between fork and exec, and makes system calls only.
    unsafe { command.pre_exec(move || bind_to(parent)) };
}

/// To be called in a child, before exec.
pub(crate) fn bind_to(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above.
    if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from(rustix::io::Errno::SRCH)) }
}

/// Lets debuggers look into this process: any, or only those that `parent` starts.
///
/// Where only a parent may look into a process (Yama), a worker allows so the debuggers that the launcher starts when a job
/// stalls. A kernel without Yama knows no such call.
pub(crate) fn allow_debuggers(parent: Option<Pid>) {
    let _ = set_ptracer(parent.map_or(PTracer::Any, PTracer::ProcessID));
}

/// Closes all descriptors except stdin, stdout and stderr at the next exec. Before Linux 5.11 there is no such call: what the
/// parent left open is then inherited.
pub(crate) fn inherit_no_descriptors() {
    // SAFETY: it marks descriptors, and touches no memory.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}
