//! Child processes that never outlive us.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

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
