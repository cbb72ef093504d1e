//! The processes below a call, and those of a launcher.

use std::fs;

/// Live processes (no zombies) whose environment holds the marker.
pub fn processes(marker: &str) -> Vec<u32> {
    let wanted = format!("DDP_TEST_MARKER={marker}\0");
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.windows(wanted.len()).any(|window| window == wanted.as_bytes()))
    })
    .collect()
}

/// A process's children.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The processes of a launcher that has started workers: the one that a user sees (the guard), the keeper, and the one
/// that workers descend from.
pub fn launcher_processes(pid: u32) -> [u32; 3] {
    let keeper = children(pid)[0];
    [pid, keeper, children(keeper)[0]]
}

pub fn signal_process(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub const SIGINT: i32 = 2;
pub const SIGKILL: i32 = 9;
pub const SIGTERM: i32 = 15;
