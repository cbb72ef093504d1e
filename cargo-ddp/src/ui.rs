//! What users read on stderr. Results go to stdout, by the commands themselves.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::Error;

/// Prints to stderr, in colour on a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    terminal: bool,
    colour: bool,
}

impl Ui {
    /// Looks at stderr and at NO_COLOR.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    /// A step of the work, in cargo's manner: `      Setup libtorch 2.13.0`.
    pub fn status(&self, verb: &str, message: impl AsRef<str>) {
        let verb = format!("{verb:>12}");
        self.line(&format!("{} {}", self.paint("1;32", &verb), message.as_ref()));
    }

    /// Something that may surprise.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.line(&format!("{} {}", self.paint("1;33", "warning:"), message.as_ref()));
    }

    /// What went wrong.
    pub fn error(&self, message: impl AsRef<str>) {
        self.line(&format!("{} {}", self.paint("1;31", "error:"), message.as_ref()));
    }

    /// The way out.
    pub fn hint(&self, message: impl AsRef<str>) {
        self.line(&format!("{} {}", self.paint("1;36", "hint:"), message.as_ref()));
    }

    /// A line as it is. A terminal that is gone is no reason to stop.
    pub fn line(&self, line: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    /// Prints an error with its hint, and picks the exit code.
    pub fn report(&self, err: &Error) -> ExitCode {
        self.error(err.to_string());
        if let Some(hint) = err.hint() {
            self.hint(hint);
        }
        ExitCode::from(err.exit_code())
    }

    /// Long work whose end is not known: a spinner on a terminal.
    pub fn spinner(&self, message: &str) -> ProgressBar {
        if !self.terminal {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner().with_message(message.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner:>12} {msg}  {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    /// Whether stderr is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Default for Ui {
    fn default() -> Self {
        Self::new()
    }
}
