//! What the library itself prints.

use std::fmt::Display;
use std::io::Write;

use ddp_contract::text::printable;

/// Prints a line on stderr. It may hold names from files, which a terminal must not obey; and a stderr that is closed or full
/// (`eprintln!` panics then) is no reason to stop training.
pub(crate) fn say(message: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(&message.to_string()));
}
