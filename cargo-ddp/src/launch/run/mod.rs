//! Runs: their directories, logs and job files, and the jobs that run on this machine.
//!
//! | file | what it does |
//! |---|---|
//! | `dir` | makes, marks and locks a run's directory |
//! | `files` | the launcher's own files there |
//! | `previous` | jobs as earlier versions wrote them |
//! | `presence` | whether a run's launcher lives |
//! | `latest`, `prune` | the link to the newest run; the logs of old ones |
//! | `job_file` | the record of the job that this process launches |
//! | `logs` | workers' output on disk |
//! | `registry` | the jobs that run on this machine |
//! | `history`, `store` | all runs of a directory, and of a project |
//! | `lineage`, `scratch` | where a step of an earlier run can be executed again, and its snapshot in another directory |

pub(crate) mod dir;
mod files;
pub(crate) mod history;
pub(crate) mod job_file;
pub(crate) mod latest;
pub(crate) mod lineage;
pub(crate) mod logs;
mod presence;
mod previous;
mod prune;
pub(crate) mod registry;
pub(crate) mod scratch;
pub(crate) mod store;
