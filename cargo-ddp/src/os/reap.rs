//! The end of a worker that a process traces. The kernel notifies a tracer first, and the parent only when the tracer has
//! taken note or is gone: a debugger that a worker started, and that does neither, would hold up the launcher forever.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process};

use super::proc;

/// How long the kernel may take to end what was sent SIGKILL.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a tracer may take to notice.
const TRACER: Duration = Duration::from_millis(500);

/// Waits for a child that has ended, or was sent SIGKILL, for `limit` at most. `None`: its tracer does not detach, or
/// the kernel does not.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let pid = Pid::from_child(child);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            return Ok(exit_of_zombie(pid));
        }
        if start.elapsed() >= TRACER
            && let Some(tracer) = tracer_of(pid).filter(|tracer| descends_from_us(*tracer))
        {
            let _ = kill_process(tracer, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn tracer_of(pid: Pid) -> Option<Pid> {
    Pid::from_raw(proc::tracer(number(pid))?.try_into().ok()?)
}

fn descends_from_us(mut pid: Pid) -> bool {
    while let Some(parent) = proc::stat(number(pid)).and_then(|fields| Pid::from_raw(fields.get(1)?.parse().ok()?)) {
        if parent == getpid() {
            return true;
        }
        pid = parent;
    }
    false
}

/// The status that the parent would get.
fn exit_of_zombie(pid: Pid) -> Option<ExitStatus> {
    let fields = proc::stat(number(pid))?;
    let is_zombie = fields.first().is_some_and(|state| state == "Z");
    Some(ExitStatus::from_raw(fields.last()?.parse().ok()?)).filter(|_| is_zombie)
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_pid().unsigned_abs()
}
