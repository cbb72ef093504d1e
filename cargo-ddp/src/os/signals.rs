//! The signals that end a job, or are forwarded to its workers, as descriptors that can be polled.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

/// One pipe per signal.
pub(crate) struct Signals {
    pipes: Vec<(i32, UnixStream)>,
    registered: Vec<signal_hook::SigId>,
}

impl Signals {
    /// Catches SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2, except those that the parent ignores for us
    /// (`nohup`).
    pub(crate) fn catch() -> io::Result<Self> {
        let ignored = ignored();
        let mut signals = Self { pipes: Vec::new(), registered: Vec::new() };
        // If two arrive together, SIGTERM counts as the first: `cargo ddp stop --now` sends it before another.
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2] {
            if ignored & (1 << (signal - 1)) == 0 {
                signals.add(signal)?;
            }
        }
        Ok(signals)
    }

    /// Catches one signal.
    pub(crate) fn only(signal: i32) -> io::Result<Self> {
        let mut signals = Self { pipes: Vec::new(), registered: Vec::new() };
        signals.add(signal)?;
        Ok(signals)
    }

    fn add(&mut self, signal: i32) -> io::Result<()> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        self.registered.push(signal_hook::low_level::pipe::register(signal, write)?);
        self.pipes.push((signal, read));
        Ok(())
    }

    /// Readable when a signal has arrived.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().map(|(_, pipe)| pipe.as_fd())
    }

    /// The signals since the last call.
    pub(crate) fn take(&mut self) -> Vec<i32> {
        let mut signals = Vec::new();
        for (signal, pipe) in &mut self.pipes {
            let mut buffer = [0; 64];
            let count = pipe.read(&mut buffer).unwrap_or(0);
            signals.extend(std::iter::repeat_n(*signal, count));
        }
        signals
    }
}

impl Drop for Signals {
    /// From now on these signals do nothing.
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// SIGUSR1 and SIGUSR2, which mean something to workers, and nothing to a job.
pub(crate) fn is_user_signal(signal: i32) -> bool {
    matches!(signal, SIGUSR1 | SIGUSR2)
}

/// Bit N-1 is set when signal N is ignored.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
