//! The end-to-end tests: real processes, real libtorch, what a user sees.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests fail by panicking")]

mod collectives;
mod errors;
mod faults;
mod gpus;
mod init;
mod launcher;
mod loader;
mod lr_scheduler;
mod models;
mod nccl;
mod new;
mod parity;
mod reducer;
mod resume;
mod sampler;
mod setup;
mod snapshots;
mod templates;
mod train;
mod trainer;
mod update;
