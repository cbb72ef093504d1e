//! SIGTERM, SIGINT and SIGUSR1 as a request to save and leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::{Error, Result};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Takes these signals for requests from now on. A second SIGTERM or SIGINT (Ctrl-C) ends the process at once, as one would
/// without.
pub(super) fn watch() -> Result<()> {
    if ASKED.get().is_some() {
        return Ok(());
    }
    let (asked, ending) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    if ASKED.set(asked.clone()).is_err() {
        return Ok(()); // another thread was first
    }
    let register = || {
        for signal in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(signal, 128 + signal, ending.clone())?;
            flag::register(signal, ending.clone())?;
            flag::register(signal, asked.clone())?;
        }
        flag::register(SIGUSR1, asked.clone())
    };
    register().map(drop).map_err(|err| Error::Invalid(format!("can't watch for signals to stop: {err}")))
}

/// Whether one of them came.
pub(super) fn asked() -> bool {
    ASKED.get().is_some_and(|asked| asked.load(Ordering::Relaxed))
}
