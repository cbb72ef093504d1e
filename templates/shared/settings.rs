//! Options from the command line and from a file, `train.toml`. Flags win.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

const FILE: &str = "train.toml";
const NOT_A_FILE: &str = "it is not a regular file";

/// For the end of `--help`.
pub const HELP: &str = "\
Options can also stand in train.toml in the current folder, or in the file that --config names: `batch_size = 64` for
--batch-size 64. Flags win over the file.";

/// The program's options; `config` gives the value of `--config`. Ends the program when something is wrong with them.
pub fn parse<A: Parser>(config: impl Fn(&A) -> Option<PathBuf>) -> A {
    let flags: Vec<OsString> = env::args_os().collect();
    let args = A::parse_from(&flags);
    let file = match config(&args) {
        Some(file) => file,
        None if Path::new(FILE).exists() => FILE.into(),
        None => return args,
    };
    // A FIFO that happens to have this name could block forever. With --config it is intended (`--config <(...)`).
    let regular = config(&args).is_some() || file.is_file();
    let text = if regular { fs::read_to_string(&file).map_err(|err| err.to_string()) } else { Err(NOT_A_FILE.into()) };
    let text = text.map_err(|err| format!("it can't be read: {err}"));
    text.and_then(|text| merge(&text, &flags)).unwrap_or_else(|problem| {
        A::command().error(ErrorKind::ValueValidation, format!("{}: {problem}", file.display())).exit()
    })
}

/// Each `key = value` becomes a flag that stands before the program's own, of which the last counts.
pub fn merge<A: Parser>(text: &str, flags: &[OsString]) -> Result<A, String> {
    let table: toml::Table = text.parse().map_err(|err: toml::de::Error| err.to_string())?;
    let known: Vec<String> = A::command().get_arguments().map(|arg| arg.get_id().to_string()).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).filter(|name| *name != "config").collect();
    let mut all: Vec<OsString> = flags.iter().take(1).cloned().collect();
    for (key, value) in &table {
        if !known.contains(&key.as_str()) {
            return Err(format!("there is no option {key:?}; there are: {}", known.join(", ")));
        }
        let value = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Array(_) | toml::Value::Table(_) => return Err(format!("{key} takes a single value")),
            other => other.to_string(),
        };
        all.push(format!("--{}={value}", key.replace('_', "-")).into());
    }
    all.extend(flags.iter().skip(1).cloned());
    let matches = A::command().args_override_self(true).try_get_matches_from(all);
    matches.and_then(|matches| A::from_arg_matches(&matches)).map_err(|err| {
        let text = err.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
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
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let args = merged("batch_size = 4\nrate = 1e-3", "program --batch-size 5");
        assert_eq!(args, Ok(Args { batch_size: 5, rate: 1e-3 }));
        assert_eq!(merged("", "program"), Ok(Args { batch_size: 3, rate: 0.1 }));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_said() {
        assert_eq!(merged("bach = 4", "p").unwrap_err(), "there is no option \"bach\"; there are: batch_size, rate");
        assert!(merged("batch_size = 'x'", "p").unwrap_err().contains("invalid value 'x' for '--batch-size"));
        assert_eq!(merged("rate = [1, 2]", "p").unwrap_err(), "rate takes a single value");
    }
}
