//! `DDP_…` variables: what means nothing is an error, for it was meant to mean something.

use std::str::FromStr;
use std::time::Duration;

use ddp_contract::env;

use crate::{Error, Result};

/// A time in seconds; `None` when the variable is not set, or empty.
pub(crate) fn seconds(name: &'static str) -> Result<Option<Duration>> {
    let Some(value) = text(name) else { return Ok(None) };
    env::seconds(&value).map_err(|problem| Error::BadVariable { name, value, problem })
}

/// How long ranks wait for each other: `usual`, unless the launcher sets a longer time for debugging.
///
/// # Errors
/// [`Error::BadVariable`](crate::Error::BadVariable).
pub(crate) fn patience(usual: Duration) -> Result<Duration> {
    Ok(seconds(env::TIMEOUT)?.unwrap_or(usual))
}

/// A number; `None` when the variable is not set, or empty.
pub(crate) fn number<T: FromStr<Err: std::fmt::Display>>(name: &'static str) -> Result<Option<T>> {
    let Some(value) = text(name) else { return Ok(None) };
    let bad = |err: T::Err| Error::BadVariable { name, value: value.clone(), problem: err.to_string() };
    value.trim().parse().map(Some).map_err(bad)
}

fn text(name: &str) -> Option<String> {
    // What is not UTF-8 is not a number either.
    std::env::var_os(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
}
