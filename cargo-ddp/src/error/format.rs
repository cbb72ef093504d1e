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

/// `its last step is 80`
pub(super) fn last_step(last: Option<u64>) -> String {
    last.map_or_else(|| "it finished no step".into(), |last| format!("its last step is {last}"))
}

/// The program that the command line selects, if it does.
pub(super) fn selected(program: &str) -> String {
    if program.is_empty() { "a program of this project".into() } else { format!("`{program}`") }
}

/// ` (steps 41 to 80 can be reached)`, if that is known.
pub(super) fn in_reach(steps: Option<(u64, u64)>) -> String {
    match steps {
        Some((first, last)) => format!(" (steps {first} to {last} can be reached)"),
        None => String::new(),
    }
}

/// What the user can choose from.
pub(super) fn available(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
