//! Which machine, boot and container a process belongs to: a home directory or a project may be shared by several, and a
//! process id means nothing elsewhere.

use std::fs;
use std::os::unix::fs::MetadataExt;

use ddp_contract::job::Origin;

use super::host;

/// This process.
pub(crate) fn own() -> Origin {
    of_process(std::process::id())
}

/// A process of this machine and container.
pub(crate) fn of_process(pid: u32) -> Origin {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let pid_namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    Origin { host: host::name(), boot_id, pid_namespace, pid, start_time: start_time(pid).unwrap_or(0) }
}

/// Whether process ids and locks of it mean something here.
pub(crate) fn is_here(origin: &Origin) -> bool {
    let own = of_process(origin.pid);
    origin.boot_id == own.boot_id && origin.pid_namespace == own.pid_namespace
}

/// Whether it ran under the kernel that runs now, in this container or another.
pub(crate) fn is_of_this_boot(origin: &Origin) -> bool {
    origin.boot_id == own().boot_id
}

/// Whether it is of another machine, as far as can be known: not of an earlier boot of this one.
pub(crate) fn is_of_other_machine(origin: &Origin) -> bool {
    !is_of_this_boot(origin) && origin.host != host::name()
}

/// Whether the process lives, and is not another one with the same id. Only for those that are [here](is_here).
pub(crate) fn is_alive(origin: &Origin) -> bool {
    start_time(origin.pid).is_some_and(|time| time == origin.start_time)
}

/// The machine's name, fit for a terminal.
pub(crate) fn machine(origin: &Origin) -> String {
    origin.host.chars().map(|c| if is_plain(c) { c } else { '?' }).collect()
}

/// As the name of a file: `PID@START@HOST@BOOT@NAMESPACE`.
pub(crate) fn to_name(origin: &Origin) -> String {
    let host: String = origin.host.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    let Origin { boot_id, pid_namespace, pid, start_time, .. } = origin;
    format!("{pid}@{start_time}@{host}@{boot_id}@{pid_namespace}")
}

/// From the name of a file. Earlier versions named theirs by the process id alone.
pub(crate) fn from_name(name: &str) -> Option<Origin> {
    let parts: Vec<_> = name.split('@').collect();
    let [pid, start_time, host, boot_id, pid_namespace] = parts[..] else { return None };
    Some(Origin {
        host: host.into(),
        boot_id: boot_id.into(),
        pid_namespace: pid_namespace.parse().ok()?,
        pid: pid.parse().ok()?,
        start_time: start_time.parse().ok()?,
    })
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
    fn process_is_distinguished_from_others_with_its_id() {
        let own = own();
        assert!(is_here(&own) && is_alive(&own) && !is_of_other_machine(&own));
        assert!(!is_alive(&Origin { start_time: own.start_time + 1, ..own.clone() }));
        assert!(!is_here(&Origin { pid_namespace: own.pid_namespace + 1, ..own.clone() }));
        let reboot = Origin { boot_id: "another".into(), ..own.clone() };
        assert!(!is_here(&reboot) && !is_of_other_machine(&reboot), "an earlier boot of this machine");
        assert!(is_of_other_machine(&Origin { host: "other".into(), ..reboot }));
        assert_eq!(from_name(&to_name(&own)).unwrap(), own);
        assert_eq!(from_name("4711"), None);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(started(own.pid).is_some_and(|time| time.abs_diff(now) < 24 * 3600));
    }

    #[test]
    fn host_names_are_fit_for_files_and_terminals() {
        let odd = Origin { host: "a/b@c\x1b[2J".into(), ..own() };
        assert_eq!(machine(&odd), "a?b?c??2J");
        assert_eq!(from_name(&to_name(&odd)).unwrap().host, "a-b-c--2J");
    }
}
