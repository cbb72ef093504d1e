//! Stdout and stderr of this process, as descriptors.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// One of the two output streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Stdout,
    Stderr,
}

/// Both streams.
pub(crate) const TARGETS: [Target; 2] = [Target::Stdout, Target::Stderr];

impl Target {
    pub(crate) fn fd(self) -> BorrowedFd<'static> {
        let number = match self {
            Self::Stdout => io::stdout().as_raw_fd(),
            Self::Stderr => io::stderr().as_raw_fd(),
        };
        // SAFETY: these two are never closed.
        unsafe { BorrowedFd::borrow_raw(number) }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
