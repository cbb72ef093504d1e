//! Runs: their directories, logs and records, and the jobs that run on this machine.

pub(crate) mod history;
pub(crate) mod logs;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod rundir;
pub(crate) mod store;
