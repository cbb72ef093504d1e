//! This process as a worker: its entry point, its link to the launcher, and what it tells of a failure.

pub mod debug;
pub(crate) mod deferred;
pub(crate) mod events;
pub(crate) mod inherited;
pub(crate) mod main;
pub(crate) mod say;
pub(crate) mod step_report;
pub(crate) mod variables;
