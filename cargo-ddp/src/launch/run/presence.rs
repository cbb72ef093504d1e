//! Whether the launcher of a run lives, by the lock in the run's directory.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::files::{LOCK, MARKER, Marker, load};
use crate::os::{filesystem, json, origin};

/// What is known of the launcher of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It runs, here or elsewhere.
    Running,
    /// It has ended, with or without a word.
    Ended,
    /// It ran on this machine, whose state can't be seen from here.
    Unknown(String),
}

/// Whether the launcher of the run in this directory lives.
pub(crate) fn presence(path: &Path) -> Presence {
    let marker = || json::read::<Marker>(&path.join(MARKER)).map(|marker| marker.origin);
    let origin = || load(path).and_then(|job| job.origin).or_else(marker);
    match probe(path) {
        Lock::Held => Presence::Running,
        Lock::Free => match origin() {
            // Not all network file systems show one machine the locks of another.
            Some(origin) if origin::is_of_other_machine(&origin) && !filesystem::is_local(path) => {
                Presence::Unknown(origin::machine(&origin))
            }
            _ => Presence::Ended,
        },
        Lock::Missing => match origin() {
            Some(origin) if origin::is_of_other_machine(&origin) => Presence::Unknown(origin::machine(&origin)),
            _ => Presence::Ended,
        },
        // Without locks there are processes.
        Lock::Unsupported => match origin() {
            Some(origin) if !origin::is_here(&origin) => Presence::Unknown(origin::machine(&origin)),
            Some(origin) if origin::is_alive(&origin) => Presence::Running,
            _ => Presence::Ended,
        },
    }
}

/// The state of the lock of a run's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    Held,
    Free,
    Missing,
    Unsupported,
}

/// Looks at the lock of a run's directory.
pub(crate) fn probe(path: &Path) -> Lock {
    // Not to wait for a FIFO of that name.
    let lock = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path.join(LOCK));
    let Ok(lock) = lock else { return Lock::Missing };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Lock::Free,
        Err(Errno::WOULDBLOCK) => Lock::Held,
        Err(_) => Lock::Unsupported,
    }
}
