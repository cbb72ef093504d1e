//! Processes that lost their parents and became children of this one, which is a subreaper.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

use super::reap::KILL_TIMEOUT;

/// Makes this process a subreaper: descendants that lose their parent become its children.
pub(crate) fn adopt_descendants() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Reaps processes that became our children when their parents ended.
pub(crate) fn reap_adopted(own: &[Pid]) {
    for pid in children().into_iter().filter(|pid| !own.contains(pid)) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Kills whatever became ours when its parent ended, and what it leaves in turn.
pub(crate) fn end_adopted(own: &[Pid]) {
    let end = Instant::now() + KILL_TIMEOUT;
    loop {
        let adopted: Vec<_> = children().into_iter().filter(|pid| !own.contains(pid)).collect();
        if adopted.is_empty() || Instant::now() > end {
            return;
        }
        for &pid in &adopted {
            let _ = kill_process(pid, Signal::KILL);
        }
        for &pid in &adopted {
            while matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// This process's children, as the kernel lists them.
fn children() -> Vec<Pid> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<_> = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    pids.iter().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
