//! One line for the whole job: it stays below all others on a terminal; in a log it is printed now and then.

use std::time::{Duration, Instant};

use ddp_contract::Event;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::termios::tcgetwinsize;

use super::keys::QuietKeys;
use super::messages::display_path;
use super::progress::JobProgress;
use super::{Ui, screen};
use crate::os::stdio::Target;

/// The line's text changes no more often: what moves faster can't be read.
const SHOWN_EVERY: Duration = Duration::from_millis(200);
/// In a log there is a line after the first time, and then each time that the second has passed.
const LOGGED_FIRST: Duration = Duration::from_secs(10);
const LOGGED_EVERY: Duration = Duration::from_secs(60);

/// What the workers have reported, as a line that stays below their output.
pub(crate) struct Live {
    bar: ProgressBar,
    _keys: Option<QuietKeys>,
    /// The terminal's width, if the bar has a length.
    measured: Option<usize>,
    /// When the text may change.
    next: Instant,
    /// The user knows where the run resumes from.
    resumed: bool,
    progress: JobProgress,
}

impl Live {
    /// Draws on `bar`.
    pub(crate) fn new(bar: ProgressBar) -> Self {
        let now = Instant::now();
        let next = if bar.is_hidden() { now + LOGGED_FIRST } else { now };
        // What keys print would push the line away from where it is to be cleared.
        let keys = if bar.is_hidden() { None } else { QuietKeys::new() };
        let live = Self { bar, _keys: keys, measured: None, next, resumed: false, progress: JobProgress::new(0, now) };
        live.without_length();
        live
    }

    fn without_length(&self) {
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            self.bar.set_style(style);
        }
        self.bar.set_message("");
    }

    /// Handles an event of rank 0, which speaks for all.
    pub(crate) fn update(&mut self, event: &Event, ui: &Ui) {
        let now = Instant::now();
        self.progress.update(event, now);
        // A restart reports where it resumes.
        if let (Event::Resumed { snapshot, epoch, step }, 0, false) = (event, self.progress.restarts, self.resumed) {
            self.resumed = true;
            ui.status(
                "Resuming",
                format!("from {} (epoch {}, step {step})", display_path(snapshot), epoch.saturating_add(1)),
            );
        }
        // A terminal that is paused would hold the launcher up.
        if now < self.next || !self.bar.is_hidden() && !screen::is_ready(Target::Stderr) {
            return;
        }
        if self.bar.is_hidden() {
            if let Some(line) = self.progress.line(usize::MAX) {
                ui.status("Training", line);
                self.next = now + LOGGED_EVERY;
            }
            return;
        }
        let columns = columns();
        let mut room = columns;
        if let Some(steps) = self.progress.steps {
            let length = bar_length(columns);
            if self.measured.replace(columns) != Some(columns)
                && let Ok(style) =
                    ProgressStyle::with_template(&format!("{{bar:{length}.green/dim}} {{percent:>3}} %  {{msg}}"))
            {
                self.bar.set_style(style.progress_chars("━━─"));
            }
            self.bar.set_length(steps);
            self.bar.set_position(self.progress.step);
            room = columns.saturating_sub(length + " 100 %  ".len());
        }
        if let Some(line) = self.progress.line(room) {
            self.bar.set_message(line);
            self.next = now + SHOWN_EVERY;
        }
    }

    /// All workers are started again.
    pub(crate) fn restarted(&mut self, restarts: u32) {
        self.progress = JobProgress::new(restarts, Instant::now());
        self.measured = None;
        self.without_length();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Of the terminal; the last one stays free, as some terminals wrap after it.
fn columns() -> usize {
    let size = tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if size == 0 { 79 } else { size - 1 }
}

fn bar_length(columns: usize) -> usize {
    (columns / 8).clamp(5, 30)
}
