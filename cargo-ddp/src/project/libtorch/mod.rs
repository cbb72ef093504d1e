//! The libtorch that everything builds against: found, or provisioned into the user's cache, and linked to from the
//! project as `.ddp/libtorch`.

mod choice;
mod config;
mod flavor;
mod home;
mod link;
mod provision;
mod python;
mod view;

use std::path::{Path, PathBuf};

pub(crate) use choice::is_own;
pub use choice::{Choice, Request, choose, find, own_libtorch};
pub(crate) use config::libtorch as configured;
pub use config::{FILE, INCLUDED, VARIABLE, is_included};
pub(crate) use flavor::CUDA;
pub use flavor::Flavor;
pub use home::Home;
pub(crate) use home::text_of;
pub use link::{LINK, link};
pub(crate) use provision::space_needed_gb;

use crate::Result;
pub use crate::version::LIBTORCH as VERSION;

/// The value of LIBTORCH for commands in `project`: the user's own, or the one in the project's configuration, spelled as it
/// is there, so that cargo sees no change between ways of building.
pub fn libtorch_for(project: &Path) -> std::ffi::OsString {
    let configured = || config::libtorch(project).unwrap_or_else(|| project.join(LINK));
    own_libtorch().unwrap_or_else(configured).into_os_string()
}

/// Where `cargo ddp setup` puts a libtorch of this flavor.
pub(crate) fn cached(flavor: Flavor) -> Result<PathBuf> {
    provision::folder(flavor)
}

/// A working Python 3.
#[derive(Clone, Debug)]
pub(crate) struct Interpreter {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
    /// Whether it has pip, or can make a virtual environment that has.
    pub(crate) fetches: bool,
}

/// The Pythons that `cargo ddp setup` considers, best first.
pub(crate) fn interpreters() -> Result<Vec<Interpreter>> {
    let pythons = python::candidates(None)?;
    let interpreter = |python: python::Python| Interpreter {
        fetches: python.has_pip() || python.has_venv(),
        program: python.program,
        version: python.version,
    };
    Ok(pythons.into_iter().map(interpreter).collect())
}
