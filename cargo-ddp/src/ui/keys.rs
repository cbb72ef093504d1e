//! `^C` is not written where a line is drawn that has to be cleared again.

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

/// As long as it lives, the terminal does not echo control characters (Ctrl-C as `^C`).
pub(crate) struct QuietKeys {
    before: Termios,
}

impl QuietKeys {
    /// `None` if the terminal is not ours to change.
    pub(crate) fn new() -> Option<Self> {
        let before = tcgetattr(std::io::stderr()).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHOCTL);
        set(&quiet)?;
        Some(Self { before })
    }
}

impl Drop for QuietKeys {
    fn drop(&mut self) {
        set(&self.before);
    }
}

/// A job in the background would be stopped for trying (SIGTTOU).
fn set(modes: &Termios) -> Option<()> {
    let terminal = std::io::stderr();
    let foreground = tcgetpgrp(&terminal).ok()? == getpgrp();
    foreground.then(|| tcsetattr(&terminal, OptionalActions::Now, modes).ok())?
}
