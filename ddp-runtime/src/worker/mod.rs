//! This process as a worker: its entry point, its link to the launcher, and what it reports.
//!
//! Everything else may use these modules; [`main`] itself uses nothing above them.

pub(crate) mod at_step;
pub mod debug;
pub(crate) mod deferred;
pub(crate) mod failure;
pub(crate) mod launcher;
pub(crate) mod logging;
pub(crate) mod main;
pub(crate) mod panics;
pub(crate) mod process;
pub(crate) mod requests;
pub(crate) mod say;
pub(crate) mod step_report;
pub(crate) mod variables;
