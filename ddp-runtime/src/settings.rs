//! A program's options from the command line and from a file, `train.toml`. Needs the feature `clap`.
//!
//! ```no_run
//! use clap::Parser;
//! use ddp_runtime::settings;
//!
//! #[derive(Debug, Parser)]
//! struct Args {
//!     /// Samples per step and rank
//!     #[arg(long, default_value_t = 32)]
//!     batch_size: u32,
//! }
//!
//! let args: Args = settings::parse(); // `--batch-size 64`, or `batch_size = 64` in train.toml
//! ```

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, Command, Parser, value_parser};

const FILE: &str = "train.toml";
const CONFIG: &str = "config";
const HELP: &str = "\
Options can also be set in train.toml in the current directory, or in the file that --config names: `batch_size = 64` for
--batch-size 64. Flags override the file.";

/// The program's options: flags, then the file that `--config` names or `train.toml` in the current directory, then defaults.
/// `--config FILE` is added to the options unless the program has one of this name. Prints what is wrong with them, and ends
/// the program with exit code 2.
pub fn parse<A: Parser>() -> A {
    let flags: Vec<OsString> = env::args_os().collect();
    let matches = command::<A>().get_matches_from(&flags);
    let args = A::from_arg_matches(&matches).unwrap_or_else(|err| err.exit());
    let chosen = matches.try_get_one::<PathBuf>(CONFIG).ok().flatten();
    let file = match chosen {
        Some(file) => file,
        None if Path::new(FILE).exists() => Path::new(FILE),
        None => return args,
    };
    // A FIFO that happens to have this name could block forever. With --config it is intended (`--config <(...)`).
    let text = match chosen.is_some() || file.is_file() {
        true => fs::read_to_string(file).map_err(|err| format!("can't be read: {err}")),
        false => Err("not a regular file".into()),
    };
    text.and_then(|text| merge(&text, &flags)).unwrap_or_else(|problem| {
        command::<A>().error(ErrorKind::ValueValidation, format!("{}: {problem}", file.display())).exit()
    })
}

/// The options from the file's `text` and from the program's `flags`, of which the first is the program. Flags override the
/// file.
///
/// # Errors
/// What is wrong with the file or the flags, in a line.
pub fn merge<A: Parser>(text: &str, flags: &[OsString]) -> Result<A, String> {
    let table: toml::Table = text.parse().map_err(|err: toml::de::Error| err.to_string())?;
    let known: Vec<String> = A::command().get_arguments().map(|arg| arg.get_id().to_string()).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).filter(|name| *name != CONFIG).collect();
    // Each `key = value` becomes a flag before the program's own flags, of which the last one counts.
    let mut all: Vec<OsString> = flags.iter().take(1).cloned().collect();
    for (key, value) in &table {
        if !known.contains(&key.as_str()) {
            return Err(format!("unknown option `{key}`, expected one of {}", known.join(", ")));
        }
        let value = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Datetime(time) => time.to_string(),
            toml::Value::Array(_) | toml::Value::Table(_) => return Err(format!("{key}: expected a single value")),
        };
        all.push(format!("--{}={value}", key.replace('_', "-")).into());
    }
    all.extend(flags.iter().skip(1).cloned());
    let matches = command::<A>().args_override_self(true).try_get_matches_from(all);
    matches.and_then(|matches| A::from_arg_matches(&matches)).map_err(|err| {
        let text = err.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

/// The program's command, with `--config` and the end of `--help`.
fn command<A: Parser>() -> Command {
    let mut command = A::command();
    if command.get_arguments().all(|arg| arg.get_id() != CONFIG) {
        let help = format!("File with options [default: {FILE}, if it exists]");
        let config = Arg::new(CONFIG).long(CONFIG).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help);
        command = command.arg(config);
    }
    if command.get_after_help().is_none() { command.after_help(HELP) } else { command }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Parser)]
    struct Args {
        #[arg(long, default_value_t = 3)]
        batch_size: u32,
        #[arg(long, default_value_t = 0.1)]
        rate: f64,
    }

    fn merged(text: &str, flags: &str) -> Result<Args, String> {
        merge(text, &flags.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn flags_override_train_toml_and_train_toml_overrides_defaults() {
        let args = merged("batch_size = 4\nrate = 1e-3", "program --batch-size 5");
        assert_eq!(args, Ok(Args { batch_size: 5, rate: 1e-3 }));
        assert_eq!(merged("", "program --config x.toml"), Ok(Args { batch_size: 3, rate: 0.1 }));
    }

    #[test]
    fn train_toml_mistakes_are_named() {
        assert_eq!(merged("bach = 4", "p").unwrap_err(), "unknown option `bach`, expected one of batch_size, rate");
        assert!(merged("batch_size = 'x'", "p").unwrap_err().contains("invalid value 'x' for '--batch-size"));
        assert_eq!(merged("rate = [1, 2]", "p").unwrap_err(), "rate: expected a single value");
        assert_eq!(
            merged("config = 'y.toml'", "p").unwrap_err(),
            "unknown option `config`, expected one of batch_size, rate"
        );
    }

    #[test]
    fn config_and_its_help_are_added_unless_the_program_has_them() {
        #[derive(Debug, Parser)]
        #[command(after_help = "mine")]
        struct Own {
            #[arg(long)]
            config: Option<String>,
        }
        let help = |mut command: Command| command.render_help().to_string();
        let added = help(command::<Args>());
        assert!(added.contains("--config <FILE>") && added.contains("Flags override the file."), "{added}");
        let own = help(command::<Own>());
        assert!(own.contains("--config <CONFIG>") && own.contains("mine") && !own.contains("override"), "{own}");
        assert_eq!(Own::parse_from(["p", "--config", "x"]).config.as_deref(), Some("x"));
    }
}
