//! Help for those who look at a worker with a debugger.
//!
//! `cargo ddp vscode` writes launch configurations that debug a job with all its ranks; a program needs nothing for it.
//! [`break_here`] stops one rank at a place of the program's choice.

mod attach;
mod before_main;
mod join;

pub(crate) use attach::trap;
pub use attach::{break_here, is_attached};

/// What is left to do once the program runs: what could not be done before its `main`.
pub(crate) fn started() {
    before_main::ensure_linked();
    join::apply_threads();
}

/// The worker exits with this code, without the C library's knowledge.
pub(crate) fn ends(code: i32) {
    join::say_goodbye(code);
}
