//! The library behind `cargo ddp`: scaffold a data-parallel training project for [tch](https://docs.rs/tch), build it, and
//! run one worker per GPU.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | the words of the command line, turned into plain data |
//! | [`commands`] | one file per subcommand |
//! | [`torch`] | finds or provisions libtorch, and links projects to it |
//! | [`scaffold`] | renders templates into new projects |
//! | [`cargo`] | finds and builds projects |
//! | [`gpu`] | the machine's GPUs |
//! | [`settings`] | launch options from Cargo.toml |
//! | [`launch`] | runs, watches and restarts workers |
//! | [`vscode`] | makes and updates `.vscode/`, to debug every rank |
//! | [`snapshot`] | snapshots on disk: lists, comparisons, import and export |
//! | [`doctor`] | what may be wrong with this machine |
//! | [`plot`] | draws what runs have measured |
//! | [`debug`] | debug sessions for workers |
//! | [`exit`] | exit codes |
//! | [`inherited`] | what a parent may have done to signals |
//! | [`output`] | files that users name for results |
//! | [`stdout`] | stdout: what is lost when it is closed or full |
//!
//! It never links libtorch: that is `ddp-runtime`'s part, inside the workers. What the two agree on is `ddp-contract`.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic when the stream is closed or full")]

pub mod cargo;
pub mod cli;
pub mod commands;
pub mod debug;
pub mod doctor;
pub mod exit;
pub mod gpu;
pub mod inherited;
pub mod launch;
pub mod output;
pub mod plot;
pub mod scaffold;
pub mod settings;
pub mod snapshot;
pub mod stdout;
pub mod torch;
pub mod vscode;

mod aside;
mod child;
mod error;
#[cfg(test)]
mod fuzz;
mod private;
mod screen;
mod shell;
mod ui;

pub use error::{Error, PipFault, Result};
pub use ui::Ui;
