//! What the kernel reports about processes, and about itself, in /proc.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// The setting of Yama that limits which processes a debugger may attach to. Missing: no limit.
pub(crate) const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// The process that traces this one, a debugger for example.
pub(crate) fn tracer(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    tracer.trim().parse().ok().filter(|pid| *pid != 0)
}

/// The fields of a process's `stat` from its state on. (The name before the state may hold anything.)
pub(crate) fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Whether a tracer has stopped the process, at a breakpoint for example.
pub(crate) fn is_paused_by_tracer(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state == "t"))
}

/// The file that a process executes. Empty for a process that is gone or belongs to another user.
pub(crate) fn program(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

/// The name of a process, as `ps` prints it.
pub(crate) fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned())
}

/// A short path to what a descriptor of this process has open.
pub(crate) fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

/// The kernel's count of processes that it killed for lack of memory.
pub(crate) fn oom_kills() -> Option<u64> {
    let counters = fs::read_to_string("/proc/vmstat").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_process_is_not_paused() {
        assert!(!is_paused_by_tracer(std::process::id()));
        assert!(!is_paused_by_tracer(0));
    }

    #[test]
    fn process_has_its_program_and_its_parent() {
        let own = std::process::id();
        assert_eq!(program(own), std::env::current_exe().unwrap());
        let parent = stat(own).unwrap()[1].parse::<u32>().unwrap();
        assert_eq!(parent, std::os::unix::process::parent_id());
    }
}
