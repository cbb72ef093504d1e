//! SIGTERM, SIGINT and SIGUSR1 as a request to save and leave.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level};

use crate::{Error, Result};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// How often SIGTERM came.
static TERMINATIONS: AtomicUsize = AtomicUsize::new(0);
/// Snapshots that are being written.
static WRITING: AtomicUsize = AtomicUsize::new(0);
/// The exit code with which the process ends when none is any more; 0: it continues.
static END_AFTER_WRITING: AtomicI32 = AtomicI32::new(0);

/// Takes these signals for requests from now on. A second SIGINT (Ctrl-C) ends the process immediately, as one would without.
/// So does a second SIGTERM, but for a snapshot that is being written: the launcher sends it when another rank has failed,
/// because this one may wait for that rank on its GPU and never save.
pub(super) fn watch() -> Result<()> {
    if ASKED.get().is_some() {
        return Ok(());
    }
    let (asked, interrupted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    if ASKED.set(asked.clone()).is_err() {
        return Ok(()); // another thread was first
    }
    let register = || {
        flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, interrupted.clone())?;
        flag::register(SIGINT, interrupted)?;
        // SAFETY: the handler uses atomics and _exit only, which are async-signal-safe.
        unsafe { low_level::register(SIGTERM, terminate)? };
        [SIGTERM, SIGINT, SIGUSR1].into_iter().try_for_each(|signal| flag::register(signal, asked.clone()).map(drop))
    };
    register().map_err(|err: std::io::Error| Error::Invalid(format!("can't watch for signals to stop: {err}")))
}

fn terminate() {
    match TERMINATIONS.fetch_add(1, Ordering::SeqCst) {
        0 => {}
        1 => {
            END_AFTER_WRITING.store(128 + SIGTERM, Ordering::SeqCst);
            if WRITING.load(Ordering::SeqCst) == 0 {
                low_level::exit(128 + SIGTERM);
            }
        }
        _ => low_level::exit(128 + SIGTERM),
    }
}

/// Whether one of them came.
pub(super) fn asked() -> bool {
    ASKED.get().is_some_and(|asked| asked.load(Ordering::Relaxed))
}

/// Lives while a snapshot is being written.
pub(super) struct WritingGuard(());

impl WritingGuard {
    pub(super) fn new() -> Self {
        WRITING.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for WritingGuard {
    fn drop(&mut self) {
        let last = WRITING.fetch_sub(1, Ordering::SeqCst) == 1;
        let code = END_AFTER_WRITING.load(Ordering::SeqCst);
        if last && code != 0 {
            low_level::exit(code);
        }
    }
}
