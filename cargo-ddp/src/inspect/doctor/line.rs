//! What a check found, and how bad it is.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Training works, something else may not, or not well.
    Warning,
    /// Training will not work.
    Error,
}

impl Level {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub says: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Line {
    pub(super) fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, says: says.into(), hint: None }
    }

    pub(super) fn warning(check: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, says: says.into(), hint: Some(hint.into()) }
    }

    pub(super) fn error(check: &'static str, says: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, level: Level::Error, says: says.into(), hint: Some(hint.into()) }
    }
}
