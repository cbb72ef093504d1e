//! Processes: the workers, the guards around the launcher, and workers that a debugger starts.

pub(crate) mod guard;
pub(crate) mod join;
pub(crate) mod workers;
