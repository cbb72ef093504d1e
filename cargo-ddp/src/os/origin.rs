//! Which machine, boot and container a process belongs to: a home directory or a project may be shared by several, and a
//! process id means nothing elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::launch::nodes::host_name;

/// A launcher's process, so that it can be told from every other one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The name of its machine or container.
    pub host: String,
    /// The kernel's id of this boot: different for each machine and each start of it.
    pub boot_id: String,
    /// The inode of the namespace that `pid` belongs to: each container has its own.
    pub pid_namespace: u64,
    /// Its process id.
    pub pid: u32,
    /// When the process started, in the kernel's clock ticks since the boot: a later process with the same id has another.
    pub start_time: u64,
}

impl Origin {
    /// This process.
    pub(crate) fn own() -> Self {
        Self::of(std::process::id())
    }

    /// A process of this machine and container.
    pub(crate) fn of(pid: u32) -> Self {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let pid_namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
        Self { host: host_name(), boot_id, pid_namespace, pid, start_time: start_time(pid).unwrap_or(0) }
    }

    /// Whether process ids and locks of it mean something here.
    pub(crate) fn is_here(&self) -> bool {
        let own = Self::of(self.pid);
        self.boot_id == own.boot_id && self.pid_namespace == own.pid_namespace
    }

    /// Whether it ran under the kernel that runs now, in this container or another.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot_id == Self::own().boot_id
    }

    /// Whether it is of another machine, as far as can be known: not of an earlier boot of this one.
    pub(crate) fn is_of_other_machine(&self) -> bool {
        !self.is_of_this_boot() && self.host != host_name()
    }

    /// Whether the process lives, and is not another one with the same id. Only for those that are [here](Self::is_here).
    pub(crate) fn is_alive(&self) -> bool {
        start_time(self.pid).is_some_and(|time| time == self.start_time)
    }

    /// The machine's name, fit for a terminal.
    pub(crate) fn machine(&self) -> String {
        self.host.chars().map(|c| if is_plain(c) { c } else { '?' }).collect()
    }

    /// As the name of a file: `PID@START@HOST@BOOT@NAMESPACE`.
    pub(crate) fn to_name(&self) -> String {
        let host: String = self.host.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
        let Self { boot_id, pid_namespace, pid, start_time, .. } = self;
        format!("{pid}@{start_time}@{host}@{boot_id}@{pid_namespace}")
    }

    /// From the name of a file. Earlier versions named theirs by the process id alone.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let parts: Vec<_> = name.split('@').collect();
        let [pid, start_time, host, boot_id, pid_namespace] = parts[..] else { return None };
        Some(Self {
            host: host.into(),
            boot_id: boot_id.into(),
            pid_namespace: pid_namespace.parse().ok()?,
            pid: pid.parse().ok()?,
            start_time: start_time.parse().ok()?,
        })
    }
}

/// What host names are made of.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// When a process started, in clock ticks since the boot (proc(5): field 22 of `stat`).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// When a process started, in seconds since 1970.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + start_time(pid)? / rustix::param::clock_ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_others_with_its_id() {
        let own = Origin::own();
        assert!(own.is_here() && own.is_alive() && !own.is_of_other_machine());
        assert!(!Origin { start_time: own.start_time + 1, ..own.clone() }.is_alive());
        assert!(!Origin { pid_namespace: own.pid_namespace + 1, ..own.clone() }.is_here());
        let reboot = Origin { boot_id: "another".into(), ..own.clone() };
        assert!(!reboot.is_here() && !reboot.is_of_other_machine(), "an earlier boot of this machine");
        assert!(Origin { host: "other".into(), ..reboot }.is_of_other_machine());
        assert_eq!(Origin::from_name(&own.to_name()).unwrap(), own);
        assert_eq!(Origin::from_name("4711"), None);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(started(own.pid).is_some_and(|time| time.abs_diff(now) < 24 * 3600));
    }

    #[test]
    fn host_names_are_fit_for_files_and_terminals() {
        let odd = Origin { host: "a/b@c\x1b[2J".into(), ..Origin::own() };
        assert_eq!(odd.machine(), "a?b?c??2J");
        assert_eq!(Origin::from_name(&odd.to_name()).unwrap().host, "a-b-c--2J");
    }
}
