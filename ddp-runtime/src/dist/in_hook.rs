//! Whether a thread runs a communication hook.

use std::cell::Cell;

thread_local! {
    /// (Each thread has its own, so it is not a field of `Process`.)
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a hook. Collectives are not compared there first: each comparison would block backward.
pub(crate) fn is_running() -> bool {
    RUNNING.get()
}

/// Runs a part of a hook, which does not panic.
pub(super) fn run<T>(part: impl FnOnce() -> T) -> T {
    RUNNING.set(true);
    let result = part();
    RUNNING.set(false);
    result
}
