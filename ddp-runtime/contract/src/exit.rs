//! Exit codes of a worker that mean something to the launcher.

/// A worker was asked to stop (Ctrl-C, SIGTERM, SIGUSR1), has saved a snapshot with all other ranks, and leaves: run it
/// again to resume. `EX_TEMPFAIL` of sysexits.h.
pub const PREEMPTED: u8 = 75;
