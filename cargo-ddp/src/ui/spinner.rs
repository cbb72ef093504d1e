//! The spinner of long work.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::status::{Status, Task};

/// Long work whose end is not known: a spinner on a terminal.
pub(super) struct Spinner<'a> {
    ui: &'a dyn Status,
    bar: ProgressBar,
    visible: bool,
}

impl<'a> Spinner<'a> {
    /// A hidden one unless it is `visible`.
    pub(super) fn new(ui: &'a dyn Status, message: &str, visible: bool) -> Self {
        if !visible {
            return Self { ui, bar: ProgressBar::hidden(), visible };
        }
        let bar = ProgressBar::new_spinner().with_message(message.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner:>12} {msg}  {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { ui, bar, visible }
    }
}

impl Task for Spinner<'_> {
    fn is_visible(&self) -> bool {
        self.visible
    }

    fn set(&self, message: &str) {
        self.bar.set_message(message.to_owned());
    }

    fn status(&self, verb: &str, message: &str) {
        self.bar.suspend(|| self.ui.status(verb, message));
    }
}

impl Drop for Spinner<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
