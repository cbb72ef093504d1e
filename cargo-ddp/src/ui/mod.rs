//! What users read on stderr. Results go to stdout, by the commands themselves.

mod color;
mod keys;
pub(crate) mod lines;
pub(crate) mod live;
mod progress;
pub(crate) mod screen;
pub(crate) mod stdout;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use ddp_contract::Event;
use ddp_contract::text::{printable, printable_json, printable_line};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::Error;
use crate::ui::lines::Prefixer;
pub use color::Color;

/// One of the two streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    Stderr,
}

impl Target {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Prints to stderr, in colour on a terminal; workers' output goes where they wrote it.
#[derive(Clone, Debug)]
pub struct Ui {
    color: Color,
    terminal: bool,
    colour: bool,
    stdout_terminal: bool,
    stdout_colour: bool,
    quiet: bool,
    json: bool,
    /// Whether to wait for a reader that is slow.
    waits: bool,
    /// A line that stays below all others.
    live: ProgressBar,
}

impl Ui {
    /// Looks at stderr, stdout and NO_COLOR.
    pub fn new() -> Self {
        let (terminal, stdout_terminal) = (std::io::stderr().is_terminal(), std::io::stdout().is_terminal());
        let color = Color::default();
        Self {
            color,
            terminal,
            colour: color.is_on(terminal),
            stdout_terminal,
            stdout_colour: color.is_on(stdout_terminal),
            quiet: false,
            json: false,
            waits: true,
            live: ProgressBar::hidden(),
        }
    }

    /// With another choice of colors.
    #[must_use]
    pub fn with_color(self, color: Color) -> Self {
        let (colour, stdout_colour) = (color.is_on(self.terminal), color.is_on(self.stdout_terminal));
        Self { color, colour, stdout_colour, ..self }
    }

    /// The choice of colors.
    pub fn color(&self) -> Color {
        self.color
    }

    /// Whether stderr is colored.
    pub fn is_colored(&self) -> bool {
        self.colour
    }

    /// Whether stdout is colored.
    pub fn is_stdout_colored(&self) -> bool {
        self.stdout_colour
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
        let (terminal, coloured) = match target {
            Target::Stdout => (self.stdout_terminal, self.stdout_colour),
            Target::Stderr => (self.terminal, self.colour),
        };
        let prefix = format!("[rank {rank}]");
        // Red is for errors, and what is left tells neighbours apart.
        let colour = ["36", "33", "35", "34", "32"][rank % 5];
        let prefix = if coloured { format!("\x1b[{colour}m{prefix}\x1b[0m ") } else { format!("{prefix} ") };
        Prefixer::new(prefix, terminal)
    }

    /// Passes on what a worker wrote: whole lines that have their prefix. A reader that is gone (`| head`) is no reason to
    /// stop the training.
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

    /// Whether what a worker writes there has to wait for a reader of ours.
    pub(crate) fn is_held_up(&self, target: Target) -> bool {
        screen::is_waiting(if self.json { Target::Stdout } else { target })
    }

    /// Whether what workers' libraries tell has to.
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

    /// With `--json`, what a worker's library told.
    pub(crate) fn worker_event(&self, rank: usize, event: &Event) {
        if let (true, Ok(Value::Object(mut fields))) = (self.json, serde_json::to_value(event)) {
            fields.insert("rank".into(), rank.into());
            self.event(&Value::Object(fields));
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

    /// The way out.
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

    /// Long work whose end is not known: a spinner on a terminal.
    pub fn spinner(&self, message: &str) -> ProgressBar {
        if !self.terminal || self.quiet {
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
