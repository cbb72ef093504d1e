//! The launcher: starts one worker per rank, watches them, and restarts them all when one fails.
//!
//! [`LaunchPlan`] says what to run; the `dispatch` module decides (a state machine that knows no processes); `workers`
//! and `watch` touch the system; `report` has the words.
//!
//! The plan's environment is torchrun's, so that a worker can't tell the difference; see `ddp_contract::env`.

mod dispatch;
mod lines;
mod plan;
mod report;
mod signals;
mod watch;
mod workers;

pub use dispatch::{Exit, Failure, Verdict};
pub use plan::{LaunchPlan, new_run};

use crate::{Result, Ui};

/// Runs the plan to its end.
///
/// # Errors
/// Only when the system refuses a process, a socket or a pipe; workers that fail are a [`Verdict`].
pub fn launch(plan: &LaunchPlan, ui: &Ui) -> Result<Verdict> {
    watch::Watch::new(plan, ui)?.run()
}
