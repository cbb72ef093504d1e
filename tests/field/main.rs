//! One test per failure that was found in the field: in public bug reports, or by attacking cargo-ddp with hostile input.
//!
//! Each test states the failure, and the public thread it was reported in where one exists.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests fail by panicking")]

mod calls;
mod chaos;
mod files;
mod launcher;
mod model;
mod network;
mod non_finite;
mod output;
mod projects;
mod registry;
mod runs;
mod signals;
mod snapshots;
mod trust;
