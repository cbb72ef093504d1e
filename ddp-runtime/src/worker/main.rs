//! The entry point that leaves a failure's reason where the launcher finds it.

use std::any::Any;
use std::backtrace::Backtrace;
use std::fmt::{Debug, Display};
use std::mem::discriminant;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;

use ddp_contract::{ErrorFile, exit};

use super::failure::{FAILED, dump_collectives, exit_at_once, failed_at_end, record};
use super::process::process;
use super::say::say;
use super::{debug, panics};
use crate::Error;
use crate::error::without_trace;

/// Exit code of a worker whose training function panicked: Rust's own.
const PANICKED: u8 = 101;

fn end_well() {
    process().deferred.finish();
    // Rank 0 stops serving the job's store.
    *process().rendezvous.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Runs a worker's training function. When it fails or panics, in any thread, the reason goes to stderr and to the
/// launcher's error file (`TORCHELASTIC_ERROR_FILE`, in torchrun's format). A dataset's panic does not: a
/// [`DataLoader`](crate::data::DataLoader) makes an error of it. (With `RUST_BACKTRACE=1` it goes to stderr as well.)
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     ddp_runtime::main(train)
/// }
///
/// fn train() -> Result<(), ddp_runtime::Error> {
///     let context = ddp_runtime::Context::init()?;
///     // …
///     Ok(())
/// }
/// ```
///
/// The exit code is 0 (also at the step of `cargo ddp run --at-step`), 1 after an error, 101 after a panic, and 75 after
/// [`Error::Preempted`](crate::Error::Preempted), if the program passes it on (also as the cause or in the text of its own
/// error) or returns `Ok`. Any other error is reported, also one that follows the preemption. After an error or a panic the process ends immediately, without
/// running destructors of statics, so that the launcher sees the cause before its consequences.
pub fn main<E: Display + Debug + 'static>(train: impl FnOnce() -> Result<(), E>) -> ExitCode {
    debug::started();
    panic::set_hook(Box::new(report_panic));
    process().deferred.begin();
    let result = panic::catch_unwind(AssertUnwindSafe(train));
    let left = |at: Option<u64>, with: fn(u64) -> Error| match (&result, at) {
        (Ok(Ok(())), at) => at.is_some(),
        (Ok(Err(err)), Some(step)) => is_or_holds(err, &with(step)),
        _ => false,
    };
    // All ranks are here, or on their way: no rank's end fails another one.
    if left(process().preempted_at(), preempted) {
        end_well();
        return ExitCode::from(exit::PREEMPTED);
    }
    let result = if left(process().arrived_at(), arrived) { Ok(Ok(())) } else { result };
    match result {
        Ok(Ok(())) => {
            end_well();
            if let Some(message) = failed_at_end() {
                record(ErrorFile::new(message, ""));
                exit_at_once(FAILED)
            }
            if process().has_stuck_thread.load(Ordering::Relaxed) {
                exit_at_once(0) // with destructors, libtorch would go while a thread uses it
            }
            ExitCode::SUCCESS
        }
        Ok(Err(err)) => {
            let message = without_trace(&text_of(&err));
            // It may hold names from a file.
            say(format_args!("error: {message}"));
            if let Some(hint) = hint_of(&err) {
                say(format_args!("hint: {hint}"));
            }
            record(ErrorFile::new(message, without_trace(&format!("{err:?}"))));
            if matches!(own_error(&err), Some(Error::Timeout { .. })) {
                dump_collectives();
            }
            process().deferred.after_failure();
            exit_at_once(FAILED)
        }
        Err(_) => {
            // The hook has printed the reason.
            process().deferred.after_failure();
            exit_at_once(PANICKED)
        }
    }
}

/// An error with its causes, on one line. A cause that is already part of the text is not repeated.
fn text_of<E: Display + 'static>(err: &E) -> String {
    let Some(chain) = (err as &dyn Any).downcast_ref::<anyhow::Error>() else { return format!("{err:#}") };
    let mut text = String::new();
    for cause in chain.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !text.ends_with(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    text
}

/// The hint, if the error or one of its causes is this crate's.
fn hint_of<E: 'static>(err: &E) -> Option<String> {
    own_error(err)?.hint()
}

/// The error or the first of its causes that is this crate's.
fn own_error<E: 'static>(err: &E) -> Option<&Error> {
    let err = err as &dyn Any;
    err.downcast_ref::<Error>().or_else(|| {
        let mut chain = err.downcast_ref::<anyhow::Error>()?.chain();
        chain.find_map(|cause| cause.downcast_ref::<Error>())
    })
}

/// The error that stops a run which was asked to stop, and saved at `step`; the text ends before the snapshot.
fn preempted(step: u64) -> Error {
    Error::Preempted { step, snapshot: PathBuf::new() }
}

/// The error that stops a job at the step of `--at-step`; the text ends before the snapshot.
fn arrived(step: u64) -> Error {
    Error::AtStep { step, snapshot: PathBuf::new() }
}

/// Whether an error is this one, of whatever snapshot. A type of the program's own may hold it where only its text shows.
fn is_or_holds<E: Display + Debug + 'static>(err: &E, stop: &Error) -> bool {
    if let Some(own) = own_error(err) {
        return discriminant(own) == discriminant(stop);
    }
    let text = format!("{err:#}\n{err:?}");
    let debug = format!("{stop:?}");
    let fields = debug.split_once("snapshot: ").map_or(&*debug, |(before, _)| before);
    text.contains(&stop.to_string()) || text.contains(fields)
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let message = without_trace(info.payload_as_str().unwrap_or("a panic without a message"));
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
    let becomes_an_error = panics::becomes_an_error(&location);
    if captured || !becomes_an_error {
        let thread = thread::current();
        say(format_args!("thread '{}' panicked at {location}:\n{message}", thread.name().unwrap_or("?")));
    }
    if captured {
        say(format_args!("{backtrace}"));
    }
    if becomes_an_error {
        return;
    }
    record(ErrorFile::new(format!("panic: {message}"), backtrace.to_string()).at(location));
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn error_is_printed_once_with_its_causes_and_a_hint() {
        let source = || std::io::Error::from_raw_os_error(30);
        let full = Error::DiskFull { path: "s".into() };
        let hint = full.hint();
        assert!(hint.is_some() && hint_of(&full) == hint);
        let err = anyhow::Error::from(full).context("saving");
        assert_eq!((text_of(&err), hint_of(&err)), (format!("saving: {}", Error::DiskFull { path: "s".into() }), hint));
        let io = Error::Io { action: "can't write", path: "s".into(), reason: source() };
        let expected = "can't write s: Read-only file system (os error 30)";
        assert_eq!(text_of(&io), expected);
        assert_eq!(text_of(&anyhow::Error::from(io)), expected);
        let plain = Err::<(), _>(source()).context("loading").unwrap_err();
        assert_eq!((text_of(&plain), hint_of(&plain)), ("loading: Read-only file system (os error 30)".into(), None));
        assert_eq!((text_of(&"text"), hint_of(&"text")), ("text".into(), None));
    }

    #[test]
    fn preemption_is_recognized_whatever_type_holds_it_and_nothing_else_is() {
        #[derive(Debug, thiserror::Error)]
        #[error("training ended")]
        struct Own(#[source] Error);
        let preempted = || Error::Preempted { step: 7, snapshot: "s".into() };
        fn is_preemption<E: Display + Debug + 'static>(err: &E, step: u64) -> bool {
            is_or_holds(err, &super::preempted(step))
        }
        let other = || Error::DiskFull { path: "s".into() };
        assert!(is_preemption(&preempted(), 7) && !is_preemption(&other(), 7));
        assert!(is_preemption(&anyhow::Error::from(preempted()).context("training"), 7));
        assert!(!is_preemption(&anyhow::Error::from(other()).context("asked to stop"), 7));
        assert!(is_preemption(&Own(preempted()), 7) && !is_preemption(&Own(other()), 7));
        assert!(is_preemption(&preempted().to_string(), 7) && !is_preemption(&"no space".to_owned(), 7));
        let boxed: Box<dyn std::error::Error> = preempted().into();
        assert!(is_preemption(&boxed, 7));
        let at_step = Error::AtStep { step: 7, snapshot: "s".into() };
        assert!(is_or_holds(&at_step, &arrived(7)) && is_or_holds(&at_step.to_string(), &arrived(7)));
        assert!(is_or_holds(&format!("{at_step:?}"), &arrived(7)) && !is_or_holds(&at_step.to_string(), &arrived(8)));
        assert!(!is_preemption(&at_step, 7) && !is_or_holds(&preempted(), &arrived(7)));
    }
}
