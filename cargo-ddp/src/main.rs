//! `cargo ddp`: see the library for what it does.

use std::process::ExitCode;

use cargo_ddp::cli::Cli;
use cargo_ddp::{Ui, commands, exit, inherited, stdout};
use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    inherited::reset_signals();
    // `cargo ddp run` starts `cargo-ddp ddp run`; the alias of a clone starts `cargo-ddp run`.
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "ddp") {
        words.remove(1);
    }
    let ui = Ui::new();
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(err) if err.use_stderr() => err.exit(),
        // `--help` and `--version`.
        Err(text) => {
            stdout::note(text.print());
            return end(exit::SUCCESS, &ui);
        }
    };
    let level = if cli.verbose { LevelFilter::DEBUG } else { LevelFilter::WARN };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .without_time()
        .with_target(false)
        .init();

    stdout::survive_file_size_limit();
    match commands::run(cli.command, &ui) {
        Ok(code) => end(code, &ui),
        Err(err) => ui.report(&err),
    }
}

/// A command that has done its work, but whose output is lost, has failed.
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
