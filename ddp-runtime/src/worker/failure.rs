//! Where a failure's reason goes: stderr, and the launcher's error file.

use std::io::Write;
use std::path::PathBuf;
use std::sync::PoisonError;

use ddp_contract::{ErrorFile, env};

use super::debug;
use super::process::process;
use super::say::say;
use crate::error::check;
use crate::os::process::exit_now;
use crate::sys;

/// Exit code of a worker whose training function gave an error.
pub(super) const FAILED: u8 = 1;

/// Says what went wrong, and makes [`main`](crate::main) fail if nothing else does.
pub(crate) fn fail_at_end(message: String) {
    say(format_args!("error: {message}"));
    process().failed_at_end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
}

/// What [`fail_at_end`] was given first.
pub(super) fn failed_at_end() -> Option<String> {
    process().failed_at_end.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Ends the process with a reason. Other threads may be blocked forever.
pub(crate) fn fail_now(message: &str) -> ! {
    say(format_args!("error: {message}"));
    record(ErrorFile::new(message, ""));
    dump_collectives();
    // Stdout is not flushed: the blocked thread may be the one that has it locked, to print a tensor.
    end(FAILED)
}

/// Ends the process without destructors of statics.
pub(super) fn exit_at_once(code: u8) -> ! {
    let _ = std::io::stdout().flush();
    end(code)
}

fn end(code: u8) -> ! {
    debug::ends(code.into());
    exit_now(code)
}

/// Writes the error into the launcher's file (`TORCHELASTIC_ERROR_FILE`), if there is one.
pub(super) fn record(error: ErrorFile) {
    let Some(path) = std::env::var_os(env::ERROR_FILE).filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return;
    };
    let rank = std::env::var(env::RANK).ok().and_then(|rank| rank.parse().ok());
    let error = match rank {
        Some(rank) => error.of_rank(rank),
        None => error,
    };
    let error = match process().last_step() {
        None => error,
        Some(step) => error.after_step(step),
    };
    if let Err(err) = error.write(&path) {
        say(format_args!("warning: can't write {}: {err}", path.display()));
    }
}

/// Writes c10d's flight recorder, the list of recent collectives, into the run's folder, if the launcher gave one
/// (`TORCH_FR_DUMP_TEMP_FILE`).
pub(super) fn dump_collectives() {
    if std::env::var_os(env::COLLECTIVES_FILE).is_none_or(|path| path.is_empty()) {
        return;
    }
    let rank = std::env::var(env::RANK).ok().and_then(|rank| rank.parse().ok()).unwrap_or(0);
    // SAFETY: a plain number.
    let written = check("writing the list of collectives", |error| unsafe { sys::ddp_dump_collectives(rank, error) });
    if let Err(err) = written {
        say(format_args!("warning: {err}"));
    }
}
