//! How a worker ended that was not our child: one that a debugger started.

use std::os::fd::OwnedFd;
use std::time::Duration;

use ddp_contract::join::Goodbye;
use rustix::net::{RecvFlags, recv};

use crate::launch::outcome::Exit;
use crate::os::pidfd;

/// How long a debugger may take to reap the process that it has started, below a second.
const REAPED: Duration = Duration::from_millis(500);

/// How a worker that was not our child has ended: it reports that itself, unless it was killed. Then the kernel does.
pub(super) fn exit_of_joined(connection: &OwnedFd, pidfd: &OwnedFd) -> Exit {
    let mut text = [0; 256];
    let goodbye = recv(connection, &mut text[..], RecvFlags::DONTWAIT).ok();
    let goodbye = goodbye.and_then(|(length, _)| serde_json::from_slice::<Goodbye>(&text[..length]).ok());
    // Of what a program passes to `exit`, the system keeps the low 8 bits.
    let reported = goodbye.map(|goodbye| Exit::Code(goodbye.code & 0xff));
    reported.or_else(|| pidfd::exit_status(pidfd, REAPED).map(Exit::from)).unwrap_or(Exit::Signal(libc::SIGKILL))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::process::{Child, Command};

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
    use rustix::process::Pid;

    use super::*;

    /// The end of a process that reported nothing, and is reaped by another thread.
    fn end_of(script: &str) -> Exit {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        drop(theirs);
        let mut child: Child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pidfd = pidfd::open(Pid::from_child(&child)).unwrap();
        let debugger = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            child.wait().unwrap()
        });
        poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], None).unwrap();
        let exit = exit_of_joined(&ours, &pidfd);
        debugger.join().unwrap();
        exit
    }

    #[test]
    fn exit_code_that_a_worker_reports_has_eight_bits() {
        let mut child = Command::new("true").spawn().unwrap();
        let pidfd = pidfd::open(Pid::from_child(&child)).unwrap();
        for (code, expected) in [(3, 3), (-1, 255), (256, 0)] {
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            let goodbye = serde_json::to_vec(&Goodbye { code }).unwrap();
            send(&theirs, &goodbye, SendFlags::NOSIGNAL).unwrap();
            assert_eq!(exit_of_joined(&ours, &pidfd), Exit::Code(expected));
        }
        child.wait().unwrap();
    }

    #[test]
    fn exit_of_a_worker_that_could_not_report_comes_from_the_kernel() {
        let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let version: Vec<u32> = text.split(['.', '-']).map_while(|part| part.trim().parse().ok()).take(2).collect();
        let expected = |exit| if version >= vec![6, 15] { exit } else { Exit::Signal(libc::SIGKILL) };
        assert_eq!(end_of("kill -SEGV $$"), expected(Exit::Signal(libc::SIGSEGV)));
        assert_eq!(end_of("exit 3"), expected(Exit::Code(3)));
        assert_eq!(end_of("kill -KILL $$"), Exit::Signal(libc::SIGKILL));
    }
}
