//! The library behind `cargo ddp`: scaffold a data-parallel training project for [tch](https://docs.rs/tch), build it, and
//! run one worker per GPU.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | the command line, turned into plain data |
//! | `config` | launch options: flags, environment and Cargo.toml in one |
//! | `log` | what `-v` and DDP_LOG show |
//! | `commands` | one file per subcommand: resolve, call, print |
//! | `ui` | what users read on stderr and stdout |
//! | `scaffold` | renders templates into new projects |
//! | `inspect` | the doctor, snapshots on disk, plots |
//! | `launch` | runs, supervises and restarts workers |
//! | `editor` | `.vscode/`, and debug sessions for workers |
//! | `project` | finds and builds projects; finds or provisions libtorch |
//! | `machine` | what a launch depends on: GPUs, cores, network interfaces, environment |
//! | `error`, [`exit`] | errors with hints, and exit codes |
//! | `status` | how lower modules report what they do |
//! | `os` | what is Linux's |
//!
//! It never links libtorch: that is `ddp-runtime`'s part, inside the workers. The two share `ddp-contract`.

#![cfg_attr(not(feature = "plot"), allow(dead_code, unused_imports, reason = "only `cargo ddp plot` needs some parts"))]
#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic when the stream is closed or full")]

pub mod cli;
pub mod exit;

mod commands;
mod config;
mod editor;
mod error;
#[cfg(test)]
mod fuzz;
mod inspect;
mod launch;
mod log;
mod machine;
mod os;
mod project;
mod scaffold;
mod shell;
#[cfg(test)]
mod snap;
mod status;
mod ui;
mod version;

use error::{Error, Result};
use ui::Ui;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use cli::Cli;
use os::inherited;
use ui::stdout;

/// The program: reads the command line, runs the command, prints its error, and gives the exit code.
pub fn main() -> ExitCode {
    inherited::reset_signals();
    // `cargo ddp run` starts `cargo-ddp ddp run`; the alias of a clone starts `cargo-ddp run`.
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "ddp") {
        words.remove(1);
    }
    let ui = match cli::choose_color(&words) {
        Ok(color) => Ui::new().with_color(color),
        Err(err) => return Ui::new().report(&err),
    };
    let parsed = Cli::command().color(cli::for_clap(ui.color())).try_get_matches_from(words);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(err) if err.use_stderr() => err.exit(),
        // `--help` and `--version`.
        Err(text) => {
            stdout::record(text.print());
            return end(exit::SUCCESS, &ui);
        }
    };
    if let Err(err) = log::init(cli.verbose, ui.is_colored()) {
        return ui.report(&err);
    }
    stdout::survive_file_size_limit();
    match commands::run(cli.command, &ui) {
        Ok(code) => end(code, &ui),
        Err(err) => ui.report(&err),
    }
}

/// A command that did its work but lost its output has failed.
fn end(code: u8, ui: &Ui) -> ExitCode {
    match stdout::failure() {
        Ok(()) => ExitCode::from(code),
        Err(err) if code == exit::SUCCESS => ui.report(&err),
        Err(err) => {
            ui.warn(err.to_string());
            ExitCode::from(code)
        }
    }
}
