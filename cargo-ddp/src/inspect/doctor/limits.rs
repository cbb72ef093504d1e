//! Checks of system limits: shared memory, locked memory, ptrace.

use rustix::process::{Resource, getrlimit};

use super::{Line, Machine};
use crate::os::proc::PTRACE_SCOPE;

pub(super) fn examine(machine: &Machine) -> Vec<Line> {
    let shm = rustix::fs::statvfs(machine.system_path("/dev/shm")).ok();
    let shm = shm.map(|disk| disk.f_blocks.saturating_mul(disk.f_frsize));
    let ptrace = machine.system_file(PTRACE_SCOPE);
    vec![shared_memory(shm), locked_memory(getrlimit(Resource::Memlock).current), ptrace_scope(ptrace.as_deref())]
}

/// What NCCL asks for on one node, with room to spare. A container has 64 MB by default.
const SHM: u64 = 1 << 30;

fn shared_memory(total: Option<u64>) -> Line {
    let check = "/dev/shm";
    let way = "in a container: `docker run --shm-size=8g` or `--ipc=host`; else `mount -o remount,size=8g /dev/shm`";
    let why = "NCCL between GPUs needs more";
    match total {
        None => Line::warning(check, "not found; NCCL between GPUs needs it", way),
        Some(total) if total < SHM => Line::warning(check, format!("{:.0} MB; {why}", total as f64 / 1e6), way),
        Some(total) => Line::ok(check, format!("{:.1} GB", total as f64 / 1e9)),
    }
}

/// What NCCL pins for a network card; GPUs alone need none.
fn locked_memory(limit: Option<u64>) -> Line {
    let check = "memlock";
    match limit {
        None => Line::ok(check, "unlimited"),
        Some(limit) if limit >= 64 << 20 => Line::ok(check, format!("{} MB", limit >> 20)),
        Some(limit) => Line::warning(
            check,
            format!("{} kB of memory can be locked; NCCL over InfiniBand needs more", limit >> 10),
            "`ulimit -l unlimited`, or in a container `docker run --ulimit memlock=-1`",
        ),
    }
}

fn ptrace_scope(value: Option<&str>) -> Line {
    let check = "ptrace";
    let way = "`sysctl kernel.yama.ptrace_scope=1`, as root";
    match value {
        None | Some("0") => Line::ok(check, "allowed: debuggers attach to workers"),
        Some("1") => Line::ok(check, "children only: workers let debuggers attach"),
        Some("2") => {
            Line::warning(check, "only root can debug workers, and the stacks of stalled jobs can't be dumped", way)
        }
        Some(_) => {
            let way = format!("{way}, and reboot");
            Line::warning(
                check,
                "no debugger can attach to workers, and the stacks of stalled jobs can't be dumped",
                way,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::line::text;
    use super::*;
    use crate::snap::assert_text;

    #[test]
    fn limits_have_thresholds_for_warnings_and_errors() {
        let levels = |lines: &[Line]| lines.iter().map(|line| line.level).collect::<Vec<_>>();
        let shm = [None, Some(64 << 20), Some(16 << 30)].map(shared_memory);
        assert_eq!(levels(&shm), [Level::Warning, Level::Warning, Level::Ok]);
        let memlock = [None, Some(64 << 10), Some(8 << 30)].map(locked_memory);
        assert_eq!(levels(&memlock), [Level::Ok, Level::Warning, Level::Ok]);
        let ptrace = [None, Some("0"), Some("1"), Some("2"), Some("3")].map(ptrace_scope);
        assert_eq!(levels(&ptrace), [Level::Ok, Level::Ok, Level::Ok, Level::Warning, Level::Warning]);
    }

    #[test]
    fn lines_of_limits_match_their_snapshot() {
        let mut lines = [None, Some(64_000_000), Some(8_000_000_000)].map(shared_memory).to_vec();
        lines.extend([None, Some(8 << 20), Some(64 << 20)].map(locked_memory));
        lines.extend([None, Some("1"), Some("2"), Some("3")].map(ptrace_scope));
        assert_text!("limits", text(&lines, std::path::Path::new("/no/folder")));
    }
}
