//! Lists and phrases in messages.

use std::path::PathBuf;

use crate::os::interpreter::Fault;

/// The predicate of `interpreter /bin/x …`.
pub(super) fn interpreter_problem(fault: Fault) -> &'static str {
    match fault {
        Fault::Missing => "does not exist",
        Fault::Windows => "is followed by a carriage return (CRLF)",
        Fault::NotExecutable => "is not executable",
    }
}

/// `rank 1`, `ranks 1, 2`.
pub(crate) fn ranks(ranks: &[usize]) -> String {
    let names: Vec<_> = ranks.iter().map(ToString::to_string).collect();
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, names.join(", "))
}

pub(super) fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

pub(super) fn no_run(run: &str, running: &[String]) -> String {
    match (run, running) {
        ("", _) => "no running jobs".into(),
        (run, []) => format!("no running job `{run}`"),
        (run, running) => format!("no running job `{run}` (running: {})", running.join(", ")),
    }
}

/// What the user can choose from.
pub(super) fn available(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
