//! The state of this process: everything that has to outlive a [`Context`](crate::Context), or that a signal handler, a panic
//! hook or the end of the process must reach.

use std::any::Any;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use super::deferred::Deferrals;
use crate::os::fd::RawFd;
use crate::os::signals::Signals;

/// See the fields. There is one, [`process`].
pub(crate) struct Process {
    /// The last step that was reported: for the error file, which a panic in any thread writes.
    last_step: AtomicU64,
    /// The step at which all ranks saved in order to leave: it decides the exit code.
    preempted_at: AtomicU64,
    /// The step of `--at-step`, at which all ranks left.
    arrived_at: AtomicU64,
    /// What went wrong where no error could be given back: it makes [`main`](crate::main) fail.
    pub(super) failed_at_end: Mutex<Option<String>>,
    /// What dropped objects leave to be done.
    pub(crate) deferred: Deferrals,
    /// The job's store and its owner's notes. If it ended with its context, another rank that makes its next context could
    /// still reach it.
    pub(crate) rendezvous: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether a thread that makes batches was left alone, as it does not end.
    pub(crate) has_stuck_thread: AtomicBool,
    /// The socket of a launcher that did not start this process (a debugger did), for a message at its end; [`NO_SOCKET`]
    /// without one.
    launcher: AtomicI32,
    /// SIGTERM, SIGINT and SIGUSR1, as a request to save and leave.
    pub(crate) signals: Signals,
}

const NO_STEP: u64 = u64::MAX;
const NO_SOCKET: RawFd = -1;

static PROCESS: Process = Process {
    last_step: AtomicU64::new(NO_STEP),
    preempted_at: AtomicU64::new(NO_STEP),
    arrived_at: AtomicU64::new(NO_STEP),
    failed_at_end: Mutex::new(None),
    deferred: Deferrals::new(),
    rendezvous: Mutex::new(None),
    has_stuck_thread: AtomicBool::new(false),
    launcher: AtomicI32::new(NO_SOCKET),
    signals: Signals::new(),
};

/// The state of this process.
pub(crate) fn process() -> &'static Process {
    &PROCESS
}

impl Process {
    /// Optimizer step number `step` is done.
    pub(crate) fn step_done(&self, step: u64) {
        self.last_step.store(step, Ordering::Relaxed);
        self.deferred.finish();
    }

    /// The last step that was reported.
    pub(crate) fn last_step(&self) -> Option<u64> {
        Some(self.last_step.load(Ordering::Relaxed)).filter(|step| *step != NO_STEP)
    }

    /// All ranks have saved step `step`, and leave.
    pub(crate) fn preempted(&self, step: u64) {
        self.preempted_at.store(step, Ordering::Relaxed);
    }

    /// The step that all ranks have saved in order to leave.
    pub(super) fn preempted_at(&self) -> Option<u64> {
        Some(self.preempted_at.load(Ordering::Relaxed)).filter(|step| *step != NO_STEP)
    }

    /// All ranks have saved the step of `--at-step`, and leave.
    pub(crate) fn arrived(&self, step: u64) {
        self.arrived_at.store(step, Ordering::Relaxed);
    }

    /// The step of `--at-step` that all ranks have saved in order to leave.
    pub(super) fn arrived_at(&self) -> Option<u64> {
        Some(self.arrived_at.load(Ordering::Relaxed)).filter(|step| *step != NO_STEP)
    }

    /// Keeps the socket of the launcher that this process has joined.
    pub(super) fn set_launcher(&self, socket: RawFd) {
        self.launcher.store(socket, Ordering::Relaxed);
    }

    /// Whether this process has joined a launcher.
    pub(super) fn has_launcher(&self) -> bool {
        self.launcher.load(Ordering::Relaxed) != NO_SOCKET
    }

    /// The launcher's socket, for one caller.
    pub(super) fn take_launcher(&self) -> Option<RawFd> {
        Some(self.launcher.swap(NO_SOCKET, Ordering::Relaxed)).filter(|socket| *socket != NO_SOCKET)
    }
}
