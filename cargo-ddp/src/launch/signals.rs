//! The signals that end a job, or ask it to save, as descriptors that can be polled.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

use crate::{Error, Result};

/// One pipe per signal.
pub(super) struct Signals {
    pub(super) pipes: Vec<(i32, UnixStream)>,
    registered: Vec<signal_hook::SigId>,
}

impl Signals {
    /// Catches SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGUSR1, except those that the parent ignores for us (`nohup`).
    pub(super) fn catch() -> Result<Self> {
        let ignored = ignored();
        let mut signals = Self { pipes: Vec::new(), registered: Vec::new() };
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1] {
            if ignored & (1 << (signal - 1)) != 0 {
                continue;
            }
            let cant = || Error::system("can't catch signals");
            let (read, write) = UnixStream::pair().map_err(cant())?;
            read.set_nonblocking(true).map_err(cant())?;
            signals.registered.push(signal_hook::low_level::pipe::register(signal, write).map_err(cant())?);
            signals.pipes.push((signal, read));
        }
        Ok(signals)
    }

    /// How often the signal of a pipe came since the last look.
    pub(super) fn take(&mut self, index: usize) -> usize {
        let mut buffer = [0; 64];
        self.pipes[index].1.read(&mut buffer).unwrap_or(0)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// Bit N-1 is set when signal N is ignored.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
