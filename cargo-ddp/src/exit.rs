//! Exit codes of `cargo ddp`. They are part of its interface: their meanings never change.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | `--check`: files are out of date; `build`: launch.json starts another program |
//! | 2 | usage error: bad flag or value, unknown GPU, no project |
//! | 3 | setup failed: no libtorch |
//! | 4 | I/O error: a file, process or socket; or output was lost |
//! | 5 | a node failed to join or was lost |
//! | 6 | a check found something: an error that doctor names, a damaged snapshot, snapshots or ranks that differ |
//! | 75 | asked to stop (Ctrl-C, SIGTERM, SIGUSR1): all workers saved a snapshot and exited; run again to resume |
//! | 101 | the build failed (cargo's own code for it) |
//! | 126 | the program can't be run |
//! | 127 | program not found |
//! | 128 + N | stopped by signal N (130: Ctrl-C, 143: SIGTERM), by workers that did not save |
//!
//! If a worker fails for good: the exit code of the first one, or 128 + N for signal N; also if the worker fails after the job was
//! asked to stop. A worker may use any of the codes above; `--report FILE` tells them apart. A rank that was ended because it stalled, and
//! ended with 0, counts as one that ended with 1.
//!
//! A command that did its work but could not write its output (a full disk) ends with 4; one that found or reported
//! something else keeps its code. A reader that is gone (`| head`, a closed terminal) changes no exit code.
//!
//! `cargo ddp exec` ends with its command's own code.

/// Done.
pub const SUCCESS: u8 = 0;
/// `--check`: files are out of date; `build`: launch.json starts another program.
pub const STALE: u8 = 1;
/// A worker failed, and its own exit code does not say so.
pub const FAILED: u8 = 1;
/// Usage error.
pub const USAGE: u8 = 2;
/// Setup failed: no libtorch.
pub const SETUP_FAILED: u8 = 3;
/// I/O error.
pub const SYSTEM: u8 = 4;
/// A node failed to join or was lost.
pub const NODE_LOST: u8 = 5;
/// A check found something: an error of doctor, a damaged snapshot, snapshots or ranks that differ.
pub const FOUND: u8 = 6;
/// Asked to stop, and everything is saved.
pub const PREEMPTED: u8 = ddp_contract::exit::PREEMPTED;
/// The build failed.
pub const BUILD_FAILED: u8 = 101;
/// The program can't be run.
pub const NOT_EXECUTABLE: u8 = 126;
/// Program not found.
pub const COMMAND_NOT_FOUND: u8 = 127;

/// Stopped by a signal.
pub fn signaled(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
