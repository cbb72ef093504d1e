//! What a check found, and how bad it is.

use std::fmt;

use ddp_contract::text::printable_line;
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

impl fmt::Display for Line {
    /// One line, and one for the hint. A terminal must not obey texts of files and programs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {:<17} {}", self.level.name(), self.check, printable_line(&self.says))?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n{:26} -> {}", "", printable_line(hint)))
    }
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

/// For text snapshots: the lines, without the paths of a temporary folder and without versions.
#[cfg(test)]
pub(super) fn text(lines: &[Line], folder: &std::path::Path) -> String {
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    text.replace(&*folder.to_string_lossy(), "[DIR]")
        .replace(crate::version::LIBTORCH, "[LIBTORCH]")
        .replace(env!("CARGO_PKG_RUST_VERSION"), "[RUST]")
}
