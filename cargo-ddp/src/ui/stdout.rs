//! The program's results, on stdout, and what is lost of them; its files under `ulimit -f`.
//!
//! The standard library's `println!` panics when stdout is closed or its disk is full.
//! Here the first failure is recorded, the command finishes its work, and `main` asks [`failure`] how to end.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use ddp_contract::text::printable;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

use crate::os::stdio::Target;
use crate::{Error, Result};

/// The first failure.
static FAILED: Mutex<Option<(Target, io::Error)>> = Mutex::new(None);

/// Prints a text.
pub(crate) fn print(text: Arguments<'_>) {
    record(io::stdout().lock().write_fmt(text));
}

/// Prints bytes. The first time that they are lost, gives the reason.
pub(crate) fn write(bytes: &[u8]) -> Option<String> {
    let mut stdout = io::stdout().lock();
    record(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Paths and texts of files as a result: a script gets them unchanged, and a terminal does not obey them.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() { printable(text) } else { Cow::Borrowed(text) }
}

/// Records the result of a write to stdout. The first time that something is lost, returns what.
pub fn record(result: io::Result<()>) -> Option<String> {
    record_for(Target::Stdout, result.and_then(|()| check_mode()))
}

/// As [`record`], of either stream.
pub(crate) fn record_for(target: Target, result: io::Result<()>) -> Option<String> {
    let err = result.err().filter(|err| !reader_is_gone(target, err))?;
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    let first = failed.is_none().then(|| format!("can't write to {}: {err}", target.name()));
    failed.get_or_insert((target, err));
    first
}

/// For a stdout that is open for reading only, the standard library reports that everything was written.
fn check_mode() -> io::Result<()> {
    if fcntl_getfl(io::stdout())? & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "open for reading only"));
    }
    Ok(())
}

/// Writes what is still in memory, and gives the first failure. A reader that is gone (`| head`, a closed terminal) is not a
/// failure.
///
/// # Errors
/// A part of the output is lost.
pub fn failure() -> Result<()> {
    record_for(Target::Stdout, io::stdout().lock().flush());
    let failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner).take();
    failed.map_or(Ok(()), |(target, source)| Err(Error::Output { stream: target.name(), source }))
}

fn reader_is_gone(target: Target, err: &io::Error) -> bool {
    // The error of a terminal that was closed.
    let is_device = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode).is_char_device();
    let hung_up = || fstat(target.fd()).is_ok_and(is_device);
    err.kind() == ErrorKind::BrokenPipe || err.raw_os_error() == Some(libc::EIO) && hung_up()
}

/// A write beyond the limit of `ulimit -f` fails with EFBIG, like a write to a full disk, instead of ending this process by
/// SIGXFSZ.
pub fn survive_file_size_limit() {
    // A handler, because programs that we start would inherit that the signal is ignored.
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false)));
}
