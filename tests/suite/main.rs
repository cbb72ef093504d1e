//! The end-to-end tests: real processes, real libtorch, and the output that a user sees.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests fail by panicking")]

mod at_step;
mod batch_norm;
mod collectives;
mod console;
mod debug;
mod docs;
mod doctor;
mod errors;
mod faults;
mod gpu_checks;
mod gpus;
mod hooks;
mod init;
mod jobs;
mod launcher;
mod loader;
mod lr_scheduler;
mod metrics;
mod models;
mod nccl;
mod new;
mod nodes;
mod nvml;
mod parity;
mod reducer;
mod resume;
mod runs;
mod sampler;
mod settings;
mod setup;
mod shared;
mod shells;
mod snapshot_commands;
mod snapshots;
mod stalls;
mod structure;
mod teardown;
mod templates;
mod train;
mod trainer;
mod update;
mod vscode;
mod vscode_debuggers;
mod zero;
