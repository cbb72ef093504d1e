//! SIGTERM, SIGINT and SIGUSR1 as a request to save and leave.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level};

/// The signals of a process, and what its handlers must know. Handlers use its atomics only.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Whether one came; set once handlers are registered.
    asked: OnceLock<Arc<AtomicBool>>,
    /// How often SIGTERM came.
    terminations: AtomicUsize,
    /// Snapshots that are being written.
    writing: AtomicUsize,
    /// The exit code with which the process ends when none is any more; 0: it continues.
    end_after_writing: AtomicI32,
}

impl Signals {
    pub(crate) const fn new() -> Self {
        Self {
            asked: OnceLock::new(),
            terminations: AtomicUsize::new(0),
            writing: AtomicUsize::new(0),
            end_after_writing: AtomicI32::new(0),
        }
    }

    /// Takes these signals for requests from now on. A second SIGINT (Ctrl-C) ends the process immediately, as one would
    /// without. So does a second SIGTERM, but for a snapshot that is being written: the launcher sends it when another rank
    /// has failed, because this one may wait for that rank on its GPU and never save.
    pub(crate) fn watch(&'static self) -> io::Result<()> {
        if self.asked.get().is_some() {
            return Ok(());
        }
        let (asked, interrupted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        if self.asked.set(asked.clone()).is_err() {
            return Ok(()); // another thread was first
        }
        flag::register_conditional_shutdown(SIGINT, 128 + SIGINT, interrupted.clone())?;
        flag::register(SIGINT, interrupted)?;
        // SAFETY: the handler uses atomics and _exit only, which are async-signal-safe.
        unsafe { low_level::register(SIGTERM, || self.terminate())? };
        [SIGTERM, SIGINT, SIGUSR1].into_iter().try_for_each(|signal| flag::register(signal, asked.clone()).map(drop))
    }

    fn terminate(&self) {
        match self.terminations.fetch_add(1, Ordering::SeqCst) {
            0 => {}
            1 => {
                self.end_after_writing.store(128 + SIGTERM, Ordering::SeqCst);
                if self.writing.load(Ordering::SeqCst) == 0 {
                    low_level::exit(128 + SIGTERM);
                }
            }
            _ => low_level::exit(128 + SIGTERM),
        }
    }

    /// Whether one of them came.
    pub(crate) fn asked(&self) -> bool {
        self.asked.get().is_some_and(|asked| asked.load(Ordering::Relaxed))
    }

    /// A snapshot is being written while the guard lives.
    pub(crate) fn begin_writing(&'static self) -> WritingGuard {
        self.writing.fetch_add(1, Ordering::SeqCst);
        WritingGuard(self)
    }
}

/// Lives while a snapshot is being written.
#[derive(Debug)]
pub(crate) struct WritingGuard(&'static Signals);

impl Drop for WritingGuard {
    fn drop(&mut self) {
        let last = self.0.writing.fetch_sub(1, Ordering::SeqCst) == 1;
        let code = self.0.end_after_writing.load(Ordering::SeqCst);
        if last && code != 0 {
            low_level::exit(code);
        }
    }
}
