//! The launcher's own log, on stderr: `-v`, `-vv`, or an `EnvFilter` in DDP_LOG, which wins over both. Workers inherit DDP_LOG
//! and DDP_LOG_FORMAT, and log in the same way.

use std::ffi::OsString;

use tracing_subscriber::EnvFilter;

use crate::{Error, Result};

/// A filter such as `cargo_ddp=debug`.
const FILTER: &str = "DDP_LOG";
/// `text` or `json`.
const FORMAT: &str = "DDP_LOG_FORMAT";

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    /// One object a line.
    Json,
}

/// Starts logging; `verbose` is the number of `-v`.
///
/// # Errors
/// [`Error::BadVariable`]
pub(crate) fn init(verbose: u8, is_colored: bool) -> Result<()> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let filter = filter(set(FILTER), verbose)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(is_colored);
    match format(set(FORMAT))? {
        Format::Text => builder.without_time().with_target(false).init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

fn filter(variable: Option<OsString>, verbose: u8) -> Result<EnvFilter> {
    let text = match (&variable, verbose) {
        (Some(text), _) => text.to_string_lossy().into_owned(),
        (None, 0) => "warn".into(),
        (None, 1) => "warn,cargo_ddp=debug".into(),
        (None, _) => "warn,cargo_ddp=trace".into(),
    };
    EnvFilter::builder().parse(&text).map_err(|err| bad(FILTER, text, err.to_string()))
}

fn format(variable: Option<OsString>) -> Result<Format> {
    let text = variable.unwrap_or_default().to_string_lossy().into_owned();
    match text.as_str() {
        "" | "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err(bad(FORMAT, text, "expected text or json".into())),
    }
}

fn bad(name: &'static str, value: String, problem: String) -> Error {
    Error::BadVariable { name, value, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_variable_wins_over_verbose() {
        let of = |variable: Option<&str>, verbose| filter(variable.map(Into::into), verbose).map(|it| it.to_string());
        assert_eq!(of(None, 0).unwrap(), "warn");
        assert!(of(None, 1).unwrap().contains("cargo_ddp=debug"));
        assert!(of(None, 2).unwrap().contains("cargo_ddp=trace"));
        assert_eq!(of(None, 3).unwrap(), of(None, 2).unwrap());
        assert_eq!(of(Some("ddp_runtime=info"), 2).unwrap(), "ddp_runtime=info");
    }

    #[test]
    fn filter_variable_that_is_invalid_is_refused() {
        let err = filter(Some("cargo_ddp=loud".into()), 0).unwrap_err();
        assert!(err.to_string().starts_with("invalid DDP_LOG `cargo_ddp=loud`: "), "{err}");
        assert_eq!(err.exit_code(), crate::exit::USAGE);
        let err = format(Some("xml".into())).unwrap_err().to_string();
        assert!(err.contains("DDP_LOG_FORMAT") && err.ends_with("expected text or json"), "{err}");
        assert_eq!(format(None).unwrap(), Format::Text);
    }
}
