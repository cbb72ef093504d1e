//! The program's results, on stdout, and its files under `ulimit -f`.
//!
//! The standard library's `println!` panics when stdout is closed or its disk is full.
//! Here the first failure is noted, the command finishes its work, and `main` asks [`failure`] how to end.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FileType, fstat};

/// The first failure.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints a text.
pub(crate) fn print(text: Arguments<'_>) {
    note(io::stdout().lock().write_fmt(text));
}

/// Prints bytes. The first time that they are lost, gives the reason.
pub(crate) fn write(bytes: &[u8]) -> Option<String> {
    let mut stdout = io::stdout().lock();
    note(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Notes what came of a write to stdout. The first time that something is lost, gives the reason.
pub fn note(result: io::Result<()>) -> Option<String> {
    let err = result.err().filter(|err| !reader_is_gone(err))?;
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    let first = failed.is_none().then(|| err.to_string());
    failed.get_or_insert(err);
    first
}

/// Writes what is still in memory, and gives the first failure. A reader that is gone (`| head`, a closed terminal) is not a
/// failure.
///
/// # Errors
/// A part of the output is lost.
pub fn failure() -> io::Result<()> {
    note(io::stdout().lock().flush());
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
}

fn reader_is_gone(err: &io::Error) -> bool {
    // What a terminal says that was closed.
    let hung_up = || fstat(io::stdout()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_char_device());
    err.kind() == io::ErrorKind::BrokenPipe || err.raw_os_error() == Some(libc::EIO) && hung_up()
}

/// A write beyond the limit of `ulimit -f` fails with EFBIG, like a write to a full disk, instead of ending this process by
/// SIGXFSZ.
pub fn survive_file_size_limit() {
    // A handler, because programs that we start would inherit that the signal is ignored.
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false)));
}
