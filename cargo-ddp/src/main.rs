//! `cargo ddp`: see the library for what it does.

use std::process::ExitCode;

use cargo_ddp::cli::Cli;
use cargo_ddp::{Ui, commands};
use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    // `cargo ddp run` starts `cargo-ddp ddp run`; the alias of a clone starts `cargo-ddp run`.
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "ddp") {
        words.remove(1);
    }
    let cli = Cli::parse_from(words);
    let level = if cli.verbose { LevelFilter::DEBUG } else { LevelFilter::WARN };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();

    let ui = Ui::new();
    match commands::run(cli.command, &ui) {
        Ok(code) => ExitCode::from(code),
        Err(err) => ui.report(&err),
    }
}
