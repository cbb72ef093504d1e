//! `[package.metadata.ddp]` in Cargo.toml: launch options that are always the same. Flags win.

use clap::Args as _;
use serde_json::Value;

use crate::cli::LaunchOptions;
use crate::{Error, Result};

/// Whether `cargo ddp vscode` makes configurations for the package without being asked: no option, but it stands there too.
const VSCODE: &str = "vscode";

/// `flags`, and what they leave open from `metadata` (the value of `package.metadata` in Cargo.toml).
///
/// # Errors
/// [`Error::BadSetting`] for a key that is no option, or a value that the option does not take.
pub fn with_metadata(flags: LaunchOptions, metadata: &Value) -> Result<LaunchOptions> {
    let Some(table) = metadata.get("ddp") else { return Ok(flags) };
    let bad = |problem: String| Error::BadSetting { problem };
    let keys = table.as_object().ok_or_else(|| bad("it must be a table".into()))?;
    let known: Vec<String> = names().into_iter().chain([VSCODE.to_owned()]).collect();
    if let Some(key) = keys.keys().find(|key| !known.contains(key)) {
        let near = known.iter().map(|name| (strsim::jaro_winkler(name, key), name));
        let near = near.filter(|(likeness, _)| *likeness > 0.7).max_by(|a, b| a.0.total_cmp(&b.0));
        return Err(bad(match near {
            Some((_, name)) => format!("there is no {key:?}; did you mean {name:?}?"),
            None => format!("there is no {key:?}; there are {}", known.join(", ")),
        }));
    }
    // One at a time, so that an error names its key.
    for (key, value) in keys {
        if key == VSCODE && !value.is_boolean() {
            return Err(bad(format!("{key}: it is true or false")));
        }
        // As the flag does. An empty `log-dir` would be the package's own root.
        if value.as_str() == Some("") {
            return Err(bad(format!("{key}: it is empty; give it a value, or remove it")));
        }
        let one: Result<LaunchOptions, _> =
            serde_json::from_value(Value::Object([(key.clone(), value.clone())].into_iter().collect()));
        one.map_err(|err| bad(format!("{key}: {err}")))?;
    }
    let file: LaunchOptions = serde_json::from_value(table.clone()).map_err(|err| bad(err.to_string()))?;
    if file.gpus.is_some() && file.nproc.is_some() {
        return Err(bad("gpus and nproc exclude each other".into()));
    }
    // Of these two, one given as a flag replaces both.
    let workers_given = flags.gpus.is_some() || flags.nproc.is_some();
    Ok(LaunchOptions {
        gpus: if workers_given { flags.gpus } else { file.gpus },
        nproc: if workers_given { flags.nproc } else { file.nproc },
        max_restarts: flags.max_restarts.or(file.max_restarts),
        backoff: flags.backoff.or(file.backoff),
        grace: flags.grace.or(file.grace),
        stall_timeout: flags.stall_timeout.or(file.stall_timeout),
        bind: flags.bind || file.bind,
        restart_on_stall: flags.restart_on_stall || file.restart_on_stall,
        show: flags.show.or(file.show),
        log_dir: flags.log_dir.or(file.log_dir),
        stdin: flags.stdin.or(file.stdin),
        report: flags.report.or(file.report),
        json: flags.json || file.json,
        quiet: flags.quiet || file.quiet,
        dry_run: flags.dry_run || file.dry_run,
        nnodes: flags.nnodes.or(file.nnodes),
        node_rank: flags.node_rank.or(file.node_rank),
        master_addr: flags.master_addr.or(file.master_addr),
        master_port: flags.master_port.or(file.master_port),
        join_timeout: flags.join_timeout.or(file.join_timeout),
        secret_file: flags.secret_file.or(file.secret_file),
    })
}

/// The options' names, as flags and in Cargo.toml.
fn names() -> Vec<String> {
    let command = LaunchOptions::augment_args(clap::Command::new("launch"));
    command.get_arguments().filter_map(|option| option.get_long()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn problem(table: Value) -> String {
        with_metadata(LaunchOptions::default(), &json!({ "ddp": table })).unwrap_err().to_string()
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = LaunchOptions { max_restarts: Some(1), nproc: Some(2), ..LaunchOptions::default() };
        let file = json!({ "ddp": { "max-restarts": 9, "gpus": "0,1", "grace": 2.5, "quiet": true } });
        let options = with_metadata(flags, &file).unwrap();
        assert_eq!((options.max_restarts, options.nproc, options.gpus), (Some(1), Some(2), None));
        assert_eq!(options.grace.unwrap().0, Duration::from_millis(2500));
        assert!(options.quiet);
        assert!(with_metadata(LaunchOptions::default(), &Value::Null).unwrap().grace.is_none());
    }

    #[test]
    fn what_is_no_option_is_refused_with_a_suggestion() {
        assert!(problem(json!({ "max-restart": 3 })).contains(r#"did you mean "max-restarts"?"#));
        assert!(problem(json!({ "max_restarts": 3 })).contains(r#"did you mean "max-restarts"?"#));
        assert!(problem(json!({ "xyz": 3 })).contains("there are gpus, nproc"));
        assert!(problem(json!({ "grace": "long" })).contains("grace: "));
        assert!(problem(json!({ "grace": -1.0 })).contains("grace: "));
        assert!(problem(json!({ "gpus": "0", "nproc": 1 })).contains("exclude"));
        assert!(problem(json!({ "vscode": "no" })).contains("true or false"));
        for key in ["log-dir", "report", "secret-file", "show"] {
            assert!(problem(json!({ key: "" })).contains(&format!("{key}: it is empty")), "{key}");
        }
        assert!(with_metadata(LaunchOptions::default(), &json!({ "ddp": { "vscode": false } })).is_ok());
        assert!(problem(json!(3)).contains("table"));
    }
}
