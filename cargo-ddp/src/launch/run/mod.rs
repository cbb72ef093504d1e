//! Runs: their directories, logs and job files, and the jobs that run on this machine.

pub(crate) mod dir;
pub(crate) mod history;
pub(crate) mod job_file;
pub(crate) mod logs;
mod previous;
pub(crate) mod registry;
pub(crate) mod store;
