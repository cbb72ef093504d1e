//! One test per failure that was found in the field: in public bug reports, or by attacking cargo-ddp with hostile input.
//!
//! Each test states the failure, and the public thread it was reported in where one exists.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests fail by panicking")]

mod chaos;
mod launcher;
mod model;
mod network;
mod projects;
mod runs;
mod snapshots;
