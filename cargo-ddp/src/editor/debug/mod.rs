//! Debugging a job with all its ranks.
//!
//! No debugger follows a launcher's children by itself. So the launch configuration (`cargo ddp vscode` writes it) has the
//! debugger watch the launcher, which says of each worker that it starts that a debug session should be opened for it, by
//! calling [`ddp_start_debugging`]; a breakpoint there runs `ddp_debug.py`, which asks the debugger's client for it.
//! Where that can't be done, the debugger starts the workers itself, and they [join](ddp_contract::join) the launcher.
//!
//! | file | what it does |
//! |---|---|
//! | `prepare` | what a project's `.ddp/` needs for it |
//! | `session` | a worker's debug session, and the function that a debugger watches |
//! | `lldb/` | runs inside lldb: opens the sessions, shows tensors |

mod prepare;
mod session;

use std::fs;
use std::path::{Path, PathBuf};

use ddp_contract::env;

pub(crate) use prepare::replace;
pub use prepare::{FOLDER, prepare};
pub(crate) use session::FRAME_NAMES;
pub use session::{Adapter, Session, Sessions, start};

use crate::progress::Progress;
use crate::{Error, Result};

/// How a job is debugged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Debug {
    /// A session is opened for each worker that the launcher starts.
    Sessions(Sessions),
    /// The debugger starts the workers, and they join the launcher in this folder.
    Join(PathBuf),
}

impl Debug {
    /// What DDP_DEBUG asks for, for a job of the project in `root`. Sessions need a debugger that watches this process: without
    /// one there is a warning, and the job is an ordinary one.
    ///
    /// # Errors
    /// [`Error::BadDebug`]; [`Error::System`] when the project's `.ddp/` can't be written.
    pub fn from_env(root: &Path, ui: &dyn Progress) -> Result<Option<Self>> {
        let Some(value) = std::env::var_os(env::DEBUG).filter(|value| !value.is_empty()) else { return Ok(None) };
        if value == "compound" {
            prepare(root)?;
            return Ok(Some(Self::Join(root.join(FOLDER))));
        }
        let adapter: Adapter = value.to_string_lossy().parse().map_err(Error::BadDebug)?;
        if !is_traced() {
            ui.warn(&format!(
                "{}={adapter} is set, but no debugger watches this process: workers run without one",
                env::DEBUG
            ));
            return Ok(None);
        }
        Ok(Some(Self::Sessions(Sessions::new(adapter, prepare(root)?))))
    }
}

/// Whether a debugger (or another tracer) watches this process.
pub fn is_traced() -> bool {
    tracer("self").is_some()
}

/// The process that traces this one.
fn tracer(pid: &str) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    tracer.trim().parse().ok().filter(|pid| *pid != 0)
}

/// Whether a debugger is attached to the process.
pub(crate) fn is_debugged(pid: u32) -> bool {
    tracer(&pid.to_string()).is_some()
}

/// Whether a debugger has stopped the process, at a breakpoint for example.
pub(crate) fn is_paused(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the state may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_runs_is_not_paused() {
        assert!(!is_paused(std::process::id()));
        assert!(!is_paused(0));
    }
}
