//! How errors of the system become an [`Error`].

use std::io;
use std::path::{Path, PathBuf};

use super::Error;
use crate::os::interpreter::{Missing, missing as missing_interpreter};

impl Error {
    /// `program` could not be started.
    pub(crate) fn start(program: &Path, source: io::Error) -> Self {
        let program = which::which(program).unwrap_or_else(|_| program.to_owned());
        match source.kind() {
            io::ErrorKind::NotFound if !program.exists() => Self::NoProgram(program),
            // For a script, the kernel may mean the interpreter.
            kind @ (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => match missing_interpreter(&program) {
                Some(missing) => Self::no_interpreter(program, missing),
                None if kind == io::ErrorKind::NotFound => Self::Start { program, source },
                None => Self::NotExecutable { program, source },
            },
            _ if is_not_a_program(&source) => Self::NotExecutable { program, source },
            _ => Self::Start { program, source },
        }
    }

    pub(crate) fn no_interpreter(program: PathBuf, missing: Missing) -> Self {
        let Missing { interpreter, fault } = missing;
        Self::NoInterpreter { program, interpreter, fault }
    }

    /// For `map_err`: `action` failed, such as `can't read train.toml`.
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }
}

/// Whether the kernel does not know the format of the file.
pub(super) fn is_not_a_program(source: &io::Error) -> bool {
    source.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error())
}
