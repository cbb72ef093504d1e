//! Debugging a job with all its ranks.
//!
//! No debugger follows a launcher's children by itself. So the launch configuration (`cargo ddp vscode` writes it) has the
//! debugger watch the launcher, which says of each worker that it starts that a debug session should be opened for it, by
//! calling [`ddp_start_debugging`]; a breakpoint there runs `ddp_debug.py`, which asks the debugger's client for it.
//! Where that can't be done, the debugger starts the workers itself, and they [join](ddp_contract::join) the launcher.
//!
//! | file | what it does |
//! |---|---|
//! | `adapter` | between an editor and lldb-dap: shows ranks that another rank has stopped
//! | `group` | the folder where the sessions of a job meet
//! | `prepare` | what a project's `.ddp/` needs for it |
//! | `session` | a worker's debug session, and the function that a debugger watches |
//! | `lldb/` | runs inside lldb: opens the sessions, stops and continues them together, shows tensors |

mod adapter;
mod group;
mod prepare;
mod session;

use std::path::{Path, PathBuf};

use ddp_contract::env;

pub use adapter::relay;
pub(crate) use prepare::replace;
pub use prepare::{FOLDER, prepare};
pub(crate) use session::FRAME_NAMES;
pub use session::{Adapter, Session, Sessions, start};

use crate::os::proc;
use crate::status::Status;
use crate::{Error, Result};

/// How a job is debugged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Debug {
    /// A session is opened for each worker that the launcher starts.
    Sessions(Sessions),
    /// The debugger starts the workers, and they join the launcher.
    Join(Join),
}

/// How workers that a debugger starts join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Of the launcher's socket.
    pub folder: PathBuf,
    /// Where the ranks' debug sessions meet, unless each is by itself.
    pub group: Option<PathBuf>,
}

impl Debug {
    /// What DDP_DEBUG asks for, for a job of the project in `root`. Sessions need a debugger that watches this process: without
    /// one there is a warning, and the job is an ordinary one.
    ///
    /// # Errors
    /// [`Error::BadDebug`], [`Error::BadVariable`]; [`Error::System`] when the project's `.ddp/` can't be written.
    pub fn from_env(root: &Path, ui: &dyn Status) -> Result<Option<Self>> {
        let Some(value) = std::env::var_os(env::DEBUG).filter(|value| !value.is_empty()) else { return Ok(None) };
        if value == "compound" {
            prepare(root)?;
            return Ok(Some(Self::Join(Join { folder: root.join(FOLDER), group: group::create(root)? })));
        }
        let adapter: Adapter = value.to_string_lossy().parse().map_err(Error::BadDebug)?;
        if !is_traced() {
            ui.warn(&format!(
                "{}={adapter} is set, but this process is not running under a debugger: workers run without one",
                env::DEBUG
            ));
            return Ok(None);
        }
        let script = prepare(root)?;
        Ok(Some(Self::Sessions(Sessions::new(adapter, root, script, group::create(root)?))))
    }
}

/// Whether a debugger (or another tracer) watches this process.
pub fn is_traced() -> bool {
    proc::tracer(std::process::id()).is_some()
}

/// Whether a debugger is attached to the process.
pub(crate) fn is_debugged(pid: u32) -> bool {
    proc::tracer(pid).is_some()
}
