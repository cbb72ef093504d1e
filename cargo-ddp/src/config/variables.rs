//! The launch options in the environment: `DDP_` and the flag's name.

use std::ffi::{OsStr, OsString};

use clap::Arg;
use ddp_contract::env;

use super::layer::{self, Kind, Layer, Source, options};
use crate::{Error, Result};

/// The variable that chooses a preset.
pub(super) const PRESET_VARIABLE: &str = "DDP_PRESET";

/// The variable of an option.
pub(super) fn name(option: &Arg) -> String {
    match layer::name(option) {
        // It had a name before the others did.
        SECRET_FILE => env::JOB_SECRET_FILE.into(),
        name => format!("DDP_{}", name.replace('-', "_").to_uppercase()),
    }
}

const SECRET_FILE: &str = "secret-file";

/// The variables of all options, and the one that chooses a preset: they are meant for this launcher, not for one that a
/// worker starts.
pub(crate) fn names() -> Vec<String> {
    options().iter().map(name).chain([PRESET_VARIABLE.to_owned()]).collect()
}

/// The options that `variable` knows. An empty variable counts as unset.
pub(super) fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Layer> {
    let mut layer = Layer::default();
    for option in options() {
        let name = name(&option);
        let Some(value) = variable(&name).filter(|value| !value.is_empty()) else { continue };
        let source = Source::Variable(name);
        let value = match Kind::from_arg(&option) {
            Kind::Boolean => boolean(&value).map_err(|problem| source.error("", problem))?.into(),
            _ => value,
        };
        layer.set(&option, &value, source)?;
    }
    if let Some((one, other)) = layer.conflict() {
        let name = |option| match layer.source(option) {
            Some(Source::Variable(name)) => name.clone(),
            _ => option.to_owned(),
        };
        return Err(Error::BadSetting { place: name(one), problem: format!("cannot be used with {}", name(other)) });
    }
    Ok(layer)
}

fn boolean(value: &OsStr) -> Result<&'static str, String> {
    match value.to_str() {
        Some("1" | "true") => Ok("true"),
        Some("0" | "false") => Ok("false"),
        _ => Err(format!("invalid value `{}`: expected 1, true, 0 or false", value.to_string_lossy())),
    }
}

/// The secret itself, in DDP_JOB_SECRET, wins over a file from anywhere but the command line.
pub(super) fn drop_unused_secret_file(layer: &mut Layer, variable: impl Fn(&str) -> Option<OsString>) {
    let is_secret_given = variable(env::JOB_SECRET).is_some_and(|secret| !secret.is_empty());
    if is_secret_given && layer.source(SECRET_FILE).is_some_and(|source| *source != Source::Flag) {
        layer.remove(SECRET_FILE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(set: &[(&str, &str)]) -> Result<Layer> {
        read(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn variables_are_parsed_like_flags() {
        let options = layer(&[("DDP_NPROC", "2"), ("DDP_QUIET", "1"), ("DDP_BIND", "0"), ("DDP_GRACE", "")]).unwrap();
        let options = options.options().unwrap();
        assert!(options.quiet && !options.bind && options.grace.is_none());
        for (name, value, problem) in [
            ("DDP_NPROC", "0", "DDP_NPROC: invalid value `0`: expected a number from 1 to 4096"),
            ("DDP_NNODES", "4097", "DDP_NNODES: invalid value `4097`: 4097 is not in 1..=4096"),
            ("DDP_MASTER_PORT", "65536", "DDP_MASTER_PORT: invalid value `65536`: 65536 is not in 1..=65535"),
            ("DDP_GRACE", "-1", "DDP_GRACE: invalid value `-1`: expected a number of seconds"),
            ("DDP_JSON", "yes", "DDP_JSON: invalid value `yes`: expected 1, true, 0 or false"),
            ("DDP_SHOW", "first", "DDP_SHOW: invalid value `first`: "),
        ] {
            let err = layer(&[(name, value)]).unwrap_err().to_string();
            assert!(err.starts_with(problem), "{err}");
        }
    }

    #[test]
    fn variables_that_exclude_each_other_are_refused() {
        let err = layer(&[("DDP_GPUS", "0"), ("DDP_NPROC", "1")]).unwrap_err().to_string();
        assert_eq!(err, "DDP_GPUS: cannot be used with DDP_NPROC");
    }

    #[test]
    fn variables_of_options_differ_from_variables_of_workers() {
        let workers = [
            env::STORE_FD,
            env::EVENT_FD,
            env::RUN_DIR,
            env::AT_STEP,
            env::AT_STEP_DIR,
            env::BACKTRACE,
            env::DEBUG,
            env::DEBUG_GROUP,
            env::DEBUG_FOLDER,
            env::ADAPTER_FD,
            env::WAIT_DEBUGGER,
            env::TIMEOUT,
            env::JOIN,
            env::JOIN_RANK,
            env::JOB_SECRET,
            "DDP_LOG",
            "DDP_LOG_FORMAT",
        ];
        let names = names();
        assert!(names.contains(&"DDP_MAX_RESTARTS".to_owned()) && names.contains(&"DDP_PRESET".to_owned()));
        assert!(!names.iter().any(|name| workers.contains(&name.as_str())), "{names:?}");
    }

    #[test]
    fn secret_wins_over_a_file_that_no_flag_names() {
        let set = [("DDP_JOB_SECRET", "x"), ("DDP_JOB_SECRET_FILE", "f")];
        let variable = |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let mut layer = read(variable).unwrap();
        assert_eq!(layer.options().unwrap().secret_file, Some("f".into()));
        drop_unused_secret_file(&mut layer, variable);
        assert_eq!(layer.options().unwrap().secret_file, None);
    }
}
