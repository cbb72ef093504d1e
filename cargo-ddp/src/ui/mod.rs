//! What users read on stderr. Results go to stdout, by the commands themselves.
//!
//! | file | what it does |
//! |---|---|
//! | `color` | when to color |
//! | `job` | takes what the launcher reports |
//! | `messages`, `failure` | its words |
//! | `json` | the same as JSON, for `--json` |
//! | `lines` | workers' output: complete lines, each with its rank before it |
//! | `live`, `progress`, `keys` | one line for the whole job, below all others |
//! | `spinner` | long work |
//! | `rank_diff` | where the ranks of a job differ |
//! | `screen`, `stdout` | writes without waiting for a slow reader; notes what is lost |

mod color;
mod failure;
mod job;
mod json;
mod keys;
mod lines;
mod live;
pub(crate) mod messages;
mod progress;
pub(crate) mod rank_diff;
mod screen;
mod spinner;
pub(crate) mod stdout;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::process::ExitCode;

use ddp_contract::text::{printable, printable_json, printable_line};
use indicatif::ProgressBar;
use serde_json::{Value, json};

pub use color::Color;
pub(crate) use job::JobUi;

use crate::Error;
use crate::os::stdio::Target;
use crate::status::{Status, Task};
use crate::ui::lines::Prefixer;
use crate::ui::spinner::Spinner;

/// Prints to stderr, in color on a terminal; workers' output goes where they wrote it.
#[derive(Clone, Debug)]
pub struct Ui {
    choice: Color,
    terminal: bool,
    color: bool,
    stdout_terminal: bool,
    stdout_color: bool,
    quiet: bool,
    json: bool,
    /// Whether to wait for a reader that is slow.
    waits: bool,
    /// A line that stays below all others.
    live: ProgressBar,
    /// Takes the output of tests.
    #[cfg(test)]
    captured: Option<tests::Captured>,
}

impl Ui {
    /// Looks at stderr, stdout and NO_COLOR.
    pub fn new() -> Self {
        let (terminal, stdout_terminal) = (std::io::stderr().is_terminal(), std::io::stdout().is_terminal());
        let choice = Color::default();
        Self {
            choice,
            terminal,
            color: choice.is_on(terminal),
            stdout_terminal,
            stdout_color: choice.is_on(stdout_terminal),
            quiet: false,
            json: false,
            waits: true,
            live: ProgressBar::hidden(),
            #[cfg(test)]
            captured: None,
        }
    }

    /// With another choice of colors.
    #[must_use]
    pub fn with_color(self, choice: Color) -> Self {
        let (color, stdout_color) = (choice.is_on(self.terminal), choice.is_on(self.stdout_terminal));
        Self { choice, color, stdout_color, ..self }
    }

    /// The choice of colors.
    pub fn color(&self) -> Color {
        self.choice
    }

    /// Whether stderr is colored.
    pub fn is_colored(&self) -> bool {
        self.color
    }

    /// Whether stdout is colored.
    pub fn is_stdout_colored(&self) -> bool {
        self.stdout_color
    }

    /// Only warnings and errors.
    #[must_use]
    pub fn quiet(self, quiet: bool) -> Self {
        Self { quiet, ..self }
    }

    /// Everything that happens to a job, workers' output included, as JSON on stdout, one object a line.
    #[must_use]
    pub fn json(self, json: bool) -> Self {
        Self { json, ..self }
    }

    /// Whether stdout is JSON.
    pub(crate) fn prints_json(&self) -> bool {
        self.json
    }

    /// One that never waits for a reader, and keeps a line below all others: on a terminal that people look at.
    pub(crate) fn with_live_line(&self) -> (Self, ProgressBar) {
        let hidden = !self.terminal || self.quiet || self.json;
        let live = if hidden { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        (Self { waits: false, live: live.clone(), ..self.clone() }, live)
    }

    /// What puts a worker's rank before its lines.
    pub(crate) fn prefixer(&self, rank: usize, target: Target) -> Prefixer {
        if self.json {
            return Prefixer::new(String::new(), false);
        }
        let (terminal, colored) = match target {
            Target::Stdout => (self.stdout_terminal, self.stdout_color),
            Target::Stderr => (self.terminal, self.color),
        };
        let prefix = format!("[rank {rank}]");
        // Red is for errors; the other colors tell neighbors apart.
        let color = ["36", "33", "35", "34", "32"][rank % 5];
        let prefix = if colored { format!("\x1b[{color}m{prefix}\x1b[0m ") } else { format!("{prefix} ") };
        Prefixer::new(prefix, terminal)
    }

    /// Forwards what a worker wrote: complete lines that have their prefix. A reader that is gone (`| head`) is no reason to stop
    /// the training.
    pub(crate) fn output(&self, rank: usize, target: Target, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.json {
            let mut events = String::new();
            for line in bytes.split_inclusive(|&byte| byte == b'\n') {
                let text = String::from_utf8_lossy(line);
                let line = text.strip_suffix('\n').unwrap_or(&text);
                let event = json!({"event": "output", "rank": rank, "stream": target.name(), "line": line});
                events += &format!("{}\n", printable_json(&event.to_string()));
            }
            self.put(Target::Stdout, events.as_bytes());
            return;
        }
        screen::expect_output(target);
        self.put(target, bytes);
    }

    fn put(&self, target: Target, bytes: &[u8]) {
        #[cfg(test)]
        if let Some(captured) = &self.captured {
            return captured.push(target, bytes);
        }
        let lost = if self.waits {
            self.live.suspend(|| screen::write_and_wait(target, bytes))
        } else if screen::is_ready(Target::Stderr) {
            self.live.suspend(|| screen::write(target, bytes))
        } else {
            // The line below would wait for the terminal.
            screen::write(target, bytes)
        };
        self.warn_of_loss(lost);
    }

    /// Writes more of what waits for a reader.
    pub(crate) fn flush(&self, target: Target) {
        let lost = match screen::is_ready(Target::Stderr) {
            true => self.live.suspend(|| screen::flush(target)),
            false => screen::flush(target),
        };
        self.warn_of_loss(lost);
    }

    /// Whether what a worker writes there has to wait for our reader.
    pub(crate) fn is_held_up(&self, target: Target) -> bool {
        screen::is_waiting(if self.json { Target::Stdout } else { target })
    }

    /// Whether what workers' libraries report has to.
    pub(crate) fn events_are_held_up(&self) -> bool {
        self.json && screen::is_waiting(Target::Stdout)
    }

    fn warn_of_loss(&self, lost: Option<String>) {
        if let Some(problem) = lost {
            self.warn(format!("{problem}; the job continues, its logs are complete"));
        }
    }

    /// Names the terminal, if there is one.
    pub(crate) fn title(&self, title: &str) {
        if self.terminal && !self.json {
            self.put(Target::Stderr, format!("\x1b]0;{}\x07", printable_line(title)).as_bytes());
        }
    }

    /// With `--json`, something that happened to the job.
    pub(crate) fn event(&self, event: &Value) {
        if self.json {
            let event = printable_json(&event.to_string()).into_owned();
            self.put(Target::Stdout, format!("{event}\n").as_bytes());
        }
    }

    /// A step of the work, in cargo's manner: `      Setup libtorch 2.13.0`.
    pub fn status(&self, verb: &str, message: impl AsRef<str>) {
        if self.quiet {
            return;
        }
        let verb = format!("{verb:>12}");
        self.print(&self.paint("1;32", &verb), message.as_ref());
    }

    /// Something that may surprise.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.print(&self.paint("1;33", "warning:"), message.as_ref());
    }

    /// What went wrong.
    pub fn error(&self, message: impl AsRef<str>) {
        self.print(&self.paint("1;31", "error:"), message.as_ref());
    }

    /// What to do about it.
    pub fn hint(&self, message: impl AsRef<str>) {
        self.print(&self.paint("1;36", "hint:"), message.as_ref());
    }

    /// A line without a label.
    pub fn line(&self, line: &str) {
        self.put(Target::Stderr, format!("{}\n", printable(line)).as_bytes());
    }

    /// Messages hold names and texts of files and of other machines: a terminal must not obey them. One that is gone is no
    /// reason to stop.
    fn print(&self, label: &str, message: &str) {
        let message = printable(message);
        self.put(Target::Stderr, format!("{label} {message}\n").as_bytes());
    }

    /// Prints an error with its hint, and picks the exit code.
    pub fn report(&self, err: &Error) -> ExitCode {
        self.error(err.to_string());
        if let Some(hint) = err.hint() {
            self.hint(hint);
        }
        ExitCode::from(err.exit_code())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Status for Ui {
    fn status(&self, verb: &str, message: &str) {
        Ui::status(self, verb, message);
    }

    fn warn(&self, message: &str) {
        Ui::warn(self, message);
    }

    fn begin(&self, message: &str) -> Box<dyn Task + '_> {
        Box::new(Spinner::new(self, message, self.terminal && !self.quiet))
    }
}

impl Default for Ui {
    fn default() -> Self {
        Self::new()
    }
}
